//! The rules of others, as text: what kube-proxy 1.36 writes for cluster IPs in its modes iptables
//! and nftables, and what the proxy in user space had. Written anew from their documented shape.
//! Shared by the suites, which load them into namespaces of their own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

const CLUSTER: &str = "10.240.0.0/16";

/// Where services are and where they lead.
pub(crate) trait Services {
    const PORT: u16;
    const BACKEND_PORT: u16;

    fn protocols(&self, number: u32) -> &'static [&'static str];
    fn address(&self, number: u32) -> Ipv4Addr;
    fn backends(&self, number: u32) -> Vec<Ipv4Addr>;
}

/// An endpoint's chain is named for service and address: a new one has a chain of its own.
fn endpoint(prefix: &str, service: &str, backend: Ipv4Addr) -> String {
    format!("{prefix}{service}-{:08x}", backend.to_bits())
}

/// A service of one protocol in iptables: its rule in KUBE-SERVICES, its chains, their rules.
#[derive(Default)]
struct Iptables {
    chains: String,
    services: String,
    rules: String,
}

impl Iptables {
    fn lead<S: Services>(&mut self, services: &S, number: u32, protocol: &str) {
        let (vip, name, port) = (services.address(number), format!("{protocol}{number}"), S::PORT);
        let to = format!("-d {vip}/32 -p {protocol} -m {protocol} --dport {port}");
        let comment = format!("-m comment --comment \"default/s{number} cluster IP\"");
        let _ = writeln!(self.services, "-A KUBE-SERVICES {to} {comment} -j KUBE-SVC-{name}");
    }

    fn balance<S: Services>(&mut self, services: &S, number: u32, protocol: &str) {
        let (vip, name, port) = (services.address(number), format!("{protocol}{number}"), S::PORT);
        let _ = writeln!(self.chains, ":KUBE-SVC-{name} - [0:0]");
        let _ = writeln!(
            self.rules,
            "-A KUBE-SVC-{name} ! -s {CLUSTER} -d {vip}/32 -p {protocol} -m {protocol} \
             --dport {port} -j KUBE-MARK-MASQ"
        );
        let backends = services.backends(number);
        for (place, backend) in backends.iter().enumerate() {
            let endpoint = endpoint("KUBE-SEP-", &name, *backend);
            let chance = match backends.len() - place {
                1 => String::new(),
                left => {
                    let part = 1.0 / left as f64;
                    format!(" -m statistic --mode random --probability {part:.10}")
                }
            };
            let _ = writeln!(self.chains, ":{endpoint} - [0:0]");
            let _ = write!(
                self.rules,
                "-A KUBE-SVC-{name}{chance} -j {endpoint}\n\
                 -A {endpoint} -s {backend}/32 -j KUBE-MARK-MASQ\n\
                 -A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}:{}\n",
                S::BACKEND_PORT
            );
        }
    }
}

/// As `iptables-restore` reads it: KUBE-SERVICES leads to a chain a service port, that one by
/// chance to a chain an endpoint.
pub(crate) fn iptables<S: Services>(services: &S, count: u32) -> String {
    let mut text = Iptables::default();
    for number in 0..count {
        for protocol in services.protocols(number) {
            text.lead(services, number, protocol);
            text.balance(services, number, protocol);
        }
    }
    let Iptables { chains, services, rules } = text;
    format!(
        "*filter\n\
         :KUBE-FORWARD - [0:0]\n\
         -A FORWARD -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n\
         {chains}\
         -A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         {services}\
         {rules}\
         COMMIT\n"
    )
}

/// What kube-proxy gives `iptables-restore --noflush` when the endpoints of one service changed:
/// every rule of KUBE-SERVICES, and the chains of that service. In large clusters it removes chains
/// that nothing leads to any more once an hour at most.
pub(crate) fn iptables_change<S: Services>(services: &S, count: u32, number: u32) -> String {
    let mut text = Iptables::default();
    for number in 0..count {
        services.protocols(number).iter().for_each(|it| text.lead(services, number, it));
    }
    services.protocols(number).iter().for_each(|it| text.balance(services, number, it));
    let Iptables { chains, services, rules } = text;
    format!("*nat\n:KUBE-SERVICES - [0:0]\n{chains}{services}{rules}COMMIT\n")
}

/// A chain of nftables.
struct Chain {
    name: String,
    text: String,
}

/// The chains of a service of one protocol in nftables, and where its address leads.
fn nft_service<S: Services>(services: &S, number: u32, protocol: &str) -> (Vec<Chain>, String) {
    let (vip, port, to) = (services.address(number), S::PORT, S::BACKEND_PORT);
    let service = format!("{protocol}-{number}");
    let backends = services.backends(number);
    let (mut chains, mut choices) = (Vec::new(), String::new());
    for (place, backend) in backends.iter().enumerate() {
        let name = endpoint("endpoint-", &service, *backend);
        let _ = write!(choices, "{place} : goto {name}, ");
        let text = format!(
            "chain {name} {{\n ip saddr {backend} jump mark-for-masquerade\n \
             meta l4proto {protocol} dnat to {backend}:{to}\n}}\n"
        );
        chains.push(Chain { name, text });
    }
    let name = format!("service-{service}");
    let text = format!(
        "chain {name} {{\n ip daddr {vip} {protocol} dport {port} ip saddr != {CLUSTER} jump \
         mark-for-masquerade\n numgen random mod {} vmap {{ {choices}}}\n}}\n",
        backends.len()
    );
    let element = format!("{vip} . {protocol} . {port} : goto {name},\n");
    chains.push(Chain { name, text });
    (chains, element)
}

/// As nft reads it: one map from addresses to a chain a service port, which leads by chance to a
/// chain an endpoint. Read one after the other, the parts are one rule set; each holds so many
/// services, because the kernel takes far longer for a large one than for its parts.
pub(crate) fn nftables<S: Services>(services: &S, count: u32, part: u32) -> Vec<String> {
    let mut parts = vec![
        "table ip kube-proxy {}\n\
         delete table ip kube-proxy\n\
         table ip kube-proxy {\n\
         chain mark-for-masquerade {\n mark set mark or 0x4000\n}\n\
         map service-ips {\n type ipv4_addr . inet_proto . inet_service : verdict\n}\n}\n"
            .to_owned(),
    ];
    for first in (0..count).step_by(part.max(1) as usize) {
        let (mut chains, mut elements) = (String::new(), String::new());
        for number in first..count.min(first.saturating_add(part)) {
            for protocol in services.protocols(number) {
                let (own, element) = nft_service(services, number, protocol);
                chains.extend(own.into_iter().map(|chain| chain.text));
                elements.push_str(&element);
            }
        }
        parts.push(format!(
            "table ip kube-proxy {{\n{chains}}}\n\
             add element ip kube-proxy service-ips {{ {elements} }}\n"
        ));
    }
    parts.push(format!("table ip kube-proxy {{\n{NFT_HOOKS}}}\n"));
    parts
}

/// What kube-proxy gives nft when the endpoints of one service changed: its chains, anew.
pub(crate) fn nftables_change<S: Services>(services: &S, number: u32) -> String {
    let (mut names, mut chains) = (String::new(), String::new());
    for protocol in services.protocols(number) {
        for Chain { name, text } in nft_service(services, number, protocol).0 {
            let _ =
                write!(names, "add chain ip kube-proxy {name}\nflush chain ip kube-proxy {name}\n");
            chains.push_str(&text);
        }
    }
    format!("{names}table ip kube-proxy {{\n{chains}}}\n")
}

/// Where packets meet the map.
const NFT_HOOKS: &str = "\
    chain services {\n ip daddr . meta l4proto . th dport vmap @service-ips\n}\n\
    chain nat-prerouting {\n type nat hook prerouting priority dstnat\n jump services\n}\n\
    chain nat-output {\n type nat hook output priority -100\n jump services\n}\n\
    chain masquerading {\n mark and 0x4000 == 0 return\n mark set mark xor 0x4000\n \
    masquerade fully-random\n}\n\
    chain nat-postrouting {\n type nat hook postrouting priority srcnat\n jump masquerading\n}\n";

/// The founding deck's way: a rule a service leads to one process. By address, for the host side of
/// a pod's link has none that a plain redirect could go to.
pub(crate) fn redirects<S: Services>(services: &S, count: u32, proxy: (Ipv4Addr, u16)) -> String {
    let mut rules = String::new();
    for number in 0..count {
        let _ = writeln!(
            rules,
            "-A KUBE-PORTALS-CONTAINER -d {}/32 -p tcp -m tcp --dport {} -j DNAT \
             --to-destination {}:{}",
            services.address(number),
            S::PORT,
            proxy.0,
            proxy.1
        );
    }
    format!(
        "*nat\n:KUBE-PORTALS-CONTAINER - [0:0]\n-A PREROUTING -j KUBE-PORTALS-CONTAINER\n\
         {rules}COMMIT\n"
    )
}
