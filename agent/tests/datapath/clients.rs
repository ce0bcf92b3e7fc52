//! Programs that know nothing of services reach them: curl, dig, iperf3 and Python's sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use bowline_lab::world::{Pod, World};

use crate::servers::{BACKEND_PORT, PATIENCE, TestService, VIP, service_with};

/// A program that serves in a pod until the test is over.
struct Serving(Child);

impl Serving {
    fn start(pod: &Pod, program: &'static str, arguments: &str) -> Self {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let child = pod.namespace.run(move || {
            let mut command = Command::new(program);
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
        });
        let address = SocketAddr::from((pod.address, BACKEND_PORT));
        pod.namespace.run(move || {
            let start = std::time::Instant::now();
            // By a look at the kernel's list: a connection would be the server's first client.
            let listens = || {
                let list = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
                let six = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap();
                let port = format!(":{BACKEND_PORT:04X} ");
                list.lines().chain(six.lines()).any(|l| l.contains(&port) && l.contains(" 0A "))
            };
            while !listens() {
                assert!(start.elapsed() < PATIENCE, "nobody listens at {address}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        Self(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client in the pod and gives what it printed.
fn run(pod: &Pod, program: &'static str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    pod.namespace.run(move || {
        let mut command = Command::new(program);
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        let output = command.args(&arguments).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {printed}{errors}");
        printed
    })
}

/// Asks over TCP, and over UDP connected and not, and checks the names that the sockets show.
const PYTHON: &str = r#"
import socket, sys
family, name = getattr(socket, sys.argv[1]), (sys.argv[2], 80)
tcp = socket.create_connection(name, 5)
assert tcp.getpeername()[:2] == name, tcp.getpeername()
tcp.sendall(b'GET / HTTP/1.0\r\n\r\n')
assert tcp.recv(100).startswith(b'HTTP/1.0 200')
loose = socket.socket(family, socket.SOCK_DGRAM)
loose.settimeout(5)
loose.sendto(b'hello', name)
data, peer = loose.recvfrom(100)
assert peer[:2] == name, peer
held = socket.socket(family, socket.SOCK_DGRAM)
held.settimeout(5)
held.connect(name)
held.sendmsg([b'hel', b'lo'])
assert held.recvfrom(100)[1][:2] == name and held.getpeername()[:2] == name
print('served')
"#;

/// Answers DNS questions, or sends other datagrams back.
const NAME_SERVER: &str = r#"
import socket, struct, sys, threading
here = (sys.argv[1], 8080)
def answer(query):
    if len(query) < 17:
        return query
    end = query.index(b'\0', 12) + 5
    head = query[:2] + struct.pack('!HHHHH', 0x8580, 1, 1, 0, 0)
    return head + query[12:end] + struct.pack('!HHHIH4B', 0xc00c, 1, 1, 60, 4, 192, 0, 2, 7)
def datagrams():
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(here)
    while True:
        data, peer = udp.recvfrom(4096)
        udp.sendto(answer(data), peer)
threading.Thread(target=datagrams, daemon=True).start()
listener = socket.create_server(here)
while True:
    client, _ = listener.accept()
    first = client.recv(4096)
    if first.startswith(b'GET'):
        client.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nserved')
    else:
        reply = answer(first[2:])
        client.sendall(struct.pack('!H', len(reply)) + reply)
    client.close()
"#;

fn server(pod: &Pod) -> Serving {
    let script = std::env::temp_dir().join(format!("bowline-server-{}.py", std::process::id()));
    std::fs::write(&script, NAME_SERVER).unwrap();
    let serving = Serving::start(pod, "python3", &format!("{} {}", script.display(), pod.address));
    std::fs::remove_file(script).unwrap();
    serving
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn curl_dig_and_python_are_served() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let pod = world.backends()[1];
    let _serving = server(pod);
    here.apply_services(&service_with(&[pod.address])).unwrap();
    world.here.cgroup.enter();
    let client = world.client();
    let name = VIP.to_string();
    let text = run(client, "curl", &["-sS", "--max-time", "5", &format!("http://{name}/")]);
    assert_eq!(text, "served");
    let mapped = format!("http://[{}]/", VIP.to_ipv6_mapped());
    assert_eq!(run(client, "curl", &["-sS", "--max-time", "5", &mapped]), "served");
    for transport in ["+notcp", "+tcp"] {
        let at = format!("@{name}");
        let ask = [&*at, "-p", "80", transport, "+short", "+tries=1", "+time=5", "a.example"];
        assert_eq!(run(client, "dig", &ask).trim(), "192.0.2.7", "{transport}");
    }
    assert_eq!(run(client, "python3", &["-c", PYTHON, "AF_INET", &name]).trim(), "served");
    let mapped = VIP.to_ipv6_mapped();
    let mapped = format!("::ffff:{}", mapped.to_ipv4_mapped().unwrap());
    assert_eq!(run(client, "python3", &["-c", PYTHON, "AF_INET6", &mapped]).trim(), "served");
    assert_eq!(world.here.counted("balanced"), 0, "not left to the packet programs");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn iperf3_runs_through_a_service() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let [pod, _] = world.backends();
    let backends: [IpAddr; 1] = [Ipv4Addr::into(pod.address)];
    here.apply_services(&TestService::new("iperf", VIP, &backends).table()).unwrap();
    world.here.cgroup.enter();
    let _serving = Serving::start(pod, "iperf3", &format!("--server --port {BACKEND_PORT}"));
    let name = VIP.to_string();
    for kind in [&[][..], &["--udp"]] {
        let mut arguments = vec!["--client", &name, "--port", "80", "--time", "1"];
        arguments.extend(kind);
        let text = run(world.client(), "iperf3", &arguments);
        assert!(text.contains("receiver"), "{text}");
    }
}
