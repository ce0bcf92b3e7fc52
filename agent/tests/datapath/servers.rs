//! Servers in pods that say who they are and whom they see, and the services that lead to them.

use std::io::{BufRead, BufReader, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream,
    UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_agent::datapath::{Datapath, ServiceTable, service_table};
use bowline_lab::world::{NODE, Pod, World};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
pub(crate) const SERVICE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(VIP, 80));
pub(crate) const BACKEND_PORT: u16 = 8080;
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Both backends answer behind [`SERVICE`], and this process counts as one of the first node's.
pub(crate) fn serve(world: &World) -> (Datapath, Datapath, [Server<'_>; 2]) {
    let (mut here, there) = world.open();
    let servers = world.backends().map(Server::start);
    here.apply_services(&service_with(&world.backends().map(|pod| pod.address))).unwrap();
    world.here.cgroup.enter();
    (here, there, servers)
}

/// The service of IPv6.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 8, 7, 0, 0, 0, 1);
pub(crate) const SERVICE6: SocketAddr = SocketAddr::V6(SocketAddrV6::new(VIP6, 80, 0, 0));

/// The services of both families, each with these pods.
pub(crate) fn services_of(pods: &[&Pod]) -> ServiceTable {
    let (four, six): (Vec<_>, Vec<_>) = pods.iter().map(|pod| (pod.address, pod.address6)).unzip();
    let both = [TestService::new("web", VIP, &four), TestService::new("web6", VIP6, &six)];
    TestService::tables(&[&both[0], &both[1]])
}

/// The service of the tests, TCP and UDP port 80, with these backends.
pub(crate) fn service_with(backends: &[Ipv4Addr]) -> ServiceTable {
    TestService::new("web", VIP, backends).table()
}

/// A service of one address, TCP and UDP port 80.
pub(crate) struct TestService {
    service: Service,
    slice: EndpointSlice,
}

impl TestService {
    pub(crate) fn new(
        name: &str,
        vip: impl Into<IpAddr>,
        backends: &[impl Into<IpAddr> + Copy],
    ) -> Self {
        let vip: IpAddr = vip.into();
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": vip, "clusterIPs": [vip], "ipFamilies": [family], "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP"},
                {"name": "udp", "port": 80, "protocol": "UDP"}]}}))
        .unwrap();
        let addresses = backends.iter().map(|address| -> IpAddr { (*address).into() });
        let endpoints: Vec<_> = addresses.map(|one| json!({"addresses": [one]})).collect();
        let slice = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "tcp", "port": BACKEND_PORT, "protocol": "TCP"},
                      {"name": "udp", "port": BACKEND_PORT, "protocol": "UDP"}]}))
        .unwrap();
        Self { service, slice }
    }

    /// With session affinity.
    pub(crate) fn sticky(mut self, seconds: i32) -> Self {
        let spec = self.service.spec.as_mut().unwrap();
        spec.session_affinity = Some("ClientIP".to_owned());
        spec.session_affinity_config = serde_json::from_value(json!({
            "clientIP": {"timeoutSeconds": seconds}}))
        .unwrap();
        self
    }

    /// The conditions of its first backend.
    pub(crate) fn first_backend_is(mut self, ready: bool, terminating: bool) -> Self {
        self.slice.endpoints.as_mut().unwrap()[0].conditions = serde_json::from_value(json!({
            "ready": ready, "serving": true, "terminating": terminating}))
        .unwrap();
        self
    }

    pub(crate) fn table(&self) -> ServiceTable {
        Self::tables(&[self])
    }

    pub(crate) fn tables(all: &[&Self]) -> ServiceTable {
        let services = all.iter().map(|one| &one.service);
        service_table(services, all.iter().map(|one| &one.slice), NODE)
    }

    /// As the API has it.
    pub(crate) fn objects(&self) -> (Service, EndpointSlice) {
        (self.service.clone(), self.slice.clone())
    }
}

/// Answers each line with `<own address> <client address> <line>`, on TCP and UDP.
pub(crate) struct Server<'a> {
    pod: &'a Pod,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<'a> Server<'a> {
    pub(crate) fn start(pod: &'a Pod) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for name in [IpAddr::from(pod.address), pod.address6.into()] {
            let address = SocketAddr::from((name, BACKEND_PORT));
            let (listener, socket) = pod.namespace.run(move || {
                (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap())
            });
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (tcp_stop, udp_stop) = (stop.clone(), stop.clone());
            threads.push(pod.namespace.spawn(move || serve_tcp(&listener, name, &tcp_stop)));
            threads.push(pod.namespace.spawn(move || serve_udp(&socket, name, &udp_stop)));
        }
        Self { pod, stop, threads }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listeners up.
        for name in [IpAddr::from(self.pod.address), self.pod.address6.into()] {
            let address = SocketAddr::from((name, BACKEND_PORT));
            self.pod.namespace.run(move || drop(TcpStream::connect(address)));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: IpAddr, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        std::thread::spawn(move || {
            let Ok(peer) = stream.peer_addr() else { return };
            let Ok(reader) = stream.try_clone() else { return };
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if writeln!(stream, "{name} {} {line}", peer.ip()).is_err() {
                    return;
                }
            }
        });
    }
}

fn serve_udp(socket: &UdpSocket, name: IpAddr, stop: &AtomicBool) {
    let mut buffer = [0; 8192];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let line = String::from_utf8_lossy(&buffer[..length]);
        let _ = socket.send_to(format!("{name} {} {line}", peer.ip()).as_bytes(), peer);
    }
}

/// A TCP connection that sends a line and reads one.
pub(crate) struct Connection(BufReader<TcpStream>);

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) backend: Ipv4Addr,
    pub(crate) client: Ipv4Addr,
    pub(crate) line: String,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.trim_end().splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        let (backend, client) = (next().parse().unwrap(), next().parse().unwrap());
        Self { backend, client, line: next().to_owned() }
    }
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> std::io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&to, PATIENCE)?)
    }

    pub(crate) fn over(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn ask(&mut self, line: &str) -> std::io::Result<Answer> {
        self.say(line).map(|answer| Answer::parse(&answer))
    }

    /// The answer as it comes.
    pub(crate) fn say(&mut self, line: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.0.get_ref().peer_addr().unwrap()
    }
}
