//! The forms of names, labels, ports and addresses. Each check returns its complaints.

use std::net::{IpAddr, Ipv4Addr};

const LABEL_LENGTH: usize = 63;
const SUBDOMAIN_LENGTH: usize = 253;
const PORT_NAME_LENGTH: usize = 15;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
    '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
    used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_NAME: &str = "a qualified name must consist of alphanumeric characters, '-', '_' \
    or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  \
    or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with \
    an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
    '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";
const ENVIRONMENT_NAME: &str = "a valid environment variable name must consist only of printable \
    ASCII characters other than '='";
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const UNDERSCORED_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric \
    character (e.g. 'example.com', regex used for validation is \
    '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' \
    (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const SYSCTL_LENGTH: usize = 253;
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid \
    DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end \
    with an alphanumeric character (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

type Complaints = Vec<String>;

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|&b| lower(b)) && bytes.last().is_some_and(|&b| lower(b));
    ends && bytes.iter().all(|&b| lower(b) || b == b'-')
}

/// A DNS label, such as a container's name.
pub(super) fn label(text: &str) -> Complaints {
    let form = if text.split('.').all(is_label) { "must not contain dots" } else { LABEL };
    check(text, LABEL_LENGTH, is_label, form)
}

/// A DNS name, such as most objects' names.
pub(super) fn subdomain(text: &str) -> Complaints {
    check(text, SUBDOMAIN_LENGTH, |text| text.split('.').all(is_label), SUBDOMAIN)
}

/// A DNS name whose parts may have underscores, such as a search domain of a pod.
pub(super) fn underscored_subdomain(text: &str) -> Complaints {
    let part = |text: &str| is_segment(text.strip_prefix('_').unwrap_or(text));
    let fits = |text: &str| text.split('.').all(part);
    check(text, SUBDOMAIN_LENGTH, fits, UNDERSCORED_SUBDOMAIN)
}

/// Lower-case letters and digits, with hyphens and underscores between them.
fn is_segment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|&b| lower(b)) && bytes.last().is_some_and(|&b| lower(b));
    ends && bytes.iter().all(|&b| lower(b) || matches!(b, b'-' | b'_'))
}

/// The name of a kernel parameter, written with dots or slashes.
pub(super) fn sysctl(text: &str) -> Complaints {
    let fits = text.len() <= SYSCTL_LENGTH && text.split(['.', '/']).all(is_segment);
    if fits { Vec::new() } else { vec![SYSCTL.to_owned()] }
}

/// The name of a header of an HTTP request.
pub(super) fn header_name(text: &str) -> Complaints {
    let all = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let fits = !text.is_empty() && text.bytes().all(all);
    if fits { Vec::new() } else { vec![HEADER_NAME.to_owned()] }
}

/// A DNS name of which the first part stands for any, such as `*.example.com`.
pub(super) fn wildcard_subdomain(text: &str) -> Complaints {
    let fits =
        |text: &str| text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    check(text, SUBDOMAIN_LENGTH, fits, WILDCARD)
}

/// A path below a domain, such as `example.com/controller`. Each complaint comes with the part that
/// it is about.
pub(super) fn domain_prefixed_path(text: &str) -> Vec<(&str, String)> {
    let Some((domain, path)) = text.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty())
    else {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![(text, why.to_owned())];
    };
    let mut complaints: Vec<_> = subdomain(domain).into_iter().map(|why| (domain, why)).collect();
    let free = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(free) {
        let why = "Invalid path (regex used for validation is \
                   '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        complaints.push((path, why.to_owned()));
    }
    complaints
}

fn check(text: &str, limit: usize, fits: impl Fn(&str) -> bool, form: &str) -> Complaints {
    let mut complaints = Vec::new();
    if text.len() > limit {
        complaints.push(too_long(limit));
    }
    if !fits(text) {
        complaints.push(form.to_owned());
    }
    complaints
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Complaints {
    check(text, LABEL_LENGTH, |text| text.is_empty() || is_name_part(text), LABEL_VALUE)
}

/// The key of a label, annotation or resource: a name with an optional domain before it.
pub(crate) fn qualified_name(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => return vec![QUALIFIED_NAME.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints
                    .extend(subdomain(prefix).into_iter().map(|c| format!("prefix part {c}")));
            }
            name
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LENGTH {
        complaints.push(format!("name part {}", too_long(LABEL_LENGTH)));
    }
    if !is_name_part(name) {
        complaints.push(format!("name part {NAME_PART}"));
    }
    complaints
}

/// A name that can be a part of a URL's path, which is all that some names have to be.
pub(super) fn path_segment(text: &str) -> Complaints {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let bad = ["/", "%"].into_iter().filter(|bad| text.contains(bad));
    bad.map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The name of a port (an IANA service name).
pub(super) fn port_name(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if text.len() > PORT_NAME_LENGTH {
        complaints.push(too_long(PORT_NAME_LENGTH));
    }
    if text.is_empty() || !text.bytes().all(|b| lower(b) || b == b'-') {
        complaints
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        complaints.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        complaints.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        complaints.push("must not begin or end with a hyphen".to_owned());
    }
    complaints
}

/// A port number.
pub(super) fn port(number: i64) -> Complaints {
    if (1..=65535).contains(&number) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// The key of a config map's or secret's data; it becomes a file's name.
pub(super) fn config_key(text: &str) -> Complaints {
    let fits = |text: &str| {
        let all = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !text.is_empty() && text.bytes().all(all)
    };
    let mut complaints = check(text, SUBDOMAIN_LENGTH, fits, CONFIG_KEY);
    if text == "." || text == ".." {
        complaints.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        complaints.push("must not start with '..'".to_owned());
    }
    complaints
}

/// The name of an environment variable.
pub(super) fn environment_name(text: &str) -> Complaints {
    let fits = text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if fits { Vec::new() } else { vec![ENVIRONMENT_NAME.to_owned()] }
}

/// An IPv4 or IPv6 address that everybody reads alike.
pub(super) fn ip(text: &str) -> Complaints {
    let why = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address"
        }
        Ok(_) => return Vec::new(),
        // Some programs read such numbers as octal.
        Err(_) if without_leading_zeros(text).parse::<Ipv4Addr>().is_ok() => {
            "must not have leading 0s"
        }
        Err(_) => IP,
    };
    vec![why.to_owned()]
}

fn without_leading_zeros(text: &str) -> String {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(plain).collect::<Vec<_>>().join(".")
}

/// An address that can be an endpoint of a service.
pub(super) fn endpoint_ip(text: &str) -> Complaints {
    let mut complaints = ip(text);
    let Ok(address) = text.parse::<IpAddr>() else { return complaints };
    let mut refuse = |bad: bool, range: &str| {
        if bad {
            complaints.push(format!("may not be {range}"));
        }
    };
    refuse(address.is_unspecified(), &format!("unspecified ({text})"));
    refuse(address.is_loopback(), "in the loopback range (127.0.0.0/8, ::1/128)");
    let (link_local, multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => {
            (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02)
        }
    };
    refuse(link_local, "in the link-local range (169.254.0.0/16, fe80::/10)");
    refuse(multicast, "in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    complaints
}
