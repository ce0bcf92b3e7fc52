//! Image names, as `[registry[:port]/]repository[:tag][@digest]` (OCI distribution specification,
//! "Pulling manifests"; the default registry and tag are those that container users know).
//!
//! Guarantees: what is accepted can go into a registry's URL as it stands. It is parsed by hand
//! because the library's parser compiles a regular expression that costs the agent megabytes.

use oci_client::Reference;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest repository name, registry included.
const NAME_BYTES: usize = 255;
const TAG_BYTES: usize = 128;

/// Why a text is no image name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ParseNameFailed {
    #[error("invalid reference format: repository name must not be empty")]
    Empty,
    #[error("invalid reference format: repository name must be lowercase")]
    Uppercase,
    #[error("invalid reference format: {0:?} is no component of a repository name")]
    Component(String),
    #[error("invalid reference format: {0:?} is no registry")]
    Registry(String),
    #[error("invalid reference format: {0:?} is no tag")]
    Tag(String),
    #[error("invalid reference format: {0:?} is no digest")]
    Digest(String),
    #[error("invalid reference format: repository name is longer than {NAME_BYTES} characters")]
    TooLong,
}

/// Parses an image name and fills in the defaults.
pub(super) fn parse(text: &str) -> Result<Reference, ParseNameFailed> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(check_tag(&rest[last + colon + 1..])?)),
        None => (rest, None),
    };
    if name.len() > NAME_BYTES {
        return Err(ParseNameFailed::TooLong);
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (check_registry(first)?, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    check_repository(repository)?;
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{DEFAULT_NAMESPACE}/{repository}")
    } else {
        repository.to_owned()
    };
    let registry = registry.to_owned();
    Ok(match (tag.map(str::to_owned), digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, tag, digest)
        }
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (Some(tag), None) => Reference::with_tag(registry, repository, tag),
        (None, None) => Reference::with_tag(registry, repository, DEFAULT_TAG.to_owned()),
    })
}

/// Whether the part before the first slash names a machine and not a folder of the default
/// registry.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn check_registry(text: &str) -> Result<&str, ParseNameFailed> {
    let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok());
    if host.split('.').all(label) && port_ok {
        Ok(text)
    } else {
        Err(ParseNameFailed::Registry(text.to_owned()))
    }
}

fn check_repository(text: &str) -> Result<(), ParseNameFailed> {
    if text.is_empty() {
        return Err(ParseNameFailed::Empty);
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ParseNameFailed::Uppercase);
    }
    match text.split('/').find(|component| !is_component(component)) {
        Some(component) => Err(ParseNameFailed::Component(component.to_owned())),
        None => Ok(()),
    }
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    ends && bytes
        .split(|b| word(*b))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<&str, ParseNameFailed> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if starts && tag.len() <= TAG_BYTES && tag.bytes().all(inner) {
        Ok(tag)
    } else {
        Err(ParseNameFailed::Tag(tag.to_owned()))
    }
}

fn check_digest(digest: &str) -> Result<&str, ParseNameFailed> {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) if is_hex(hex) => (hex.len(), 64),
        Some(("sha512", hex)) if is_hex(hex) => (hex.len(), 128),
        _ => return Err(ParseNameFailed::Digest(digest.to_owned())),
    };
    if length.0 == length.1 { Ok(digest) } else { Err(ParseNameFailed::Digest(digest.to_owned())) }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_defaults() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let rows = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("10.0.0.1:5000/app:v1", "10.0.0.1:5000/app:v1"),
            ("registry.example:5000/a/b_c/d__e/f-g:x", "registry.example:5000/a/b_c/d__e/f-g:x"),
        ];
        for (text, whole) in rows {
            assert_eq!(parse(text).map(|name| name.whole()), Ok(whole.to_owned()), "{text}");
        }
        let pinned = parse(&format!("app.example/x:v1@{digest}")).unwrap();
        assert_eq!(pinned.digest(), Some(digest.as_str()));
        assert_eq!(pinned.tag(), Some("v1"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_part_that_is_wrong() {
        let component = |text: &str| ParseNameFailed::Component(text.to_owned());
        let rows = [
            ("", ParseNameFailed::Empty),
            ("app.example/", ParseNameFailed::Empty),
            ("Busybox", ParseNameFailed::Uppercase),
            ("a//b", component("")),
            ("a/.b", component(".b")),
            ("a/b..c", component("b..c")),
            ("a/b?c", component("b?c")),
            ("a:", ParseNameFailed::Tag(String::new())),
            ("a:b c", ParseNameFailed::Tag("b c".to_owned())),
            ("host:99999/a", ParseNameFailed::Registry("host:99999".to_owned())),
            ("-x.example/a", ParseNameFailed::Registry("-x.example".to_owned())),
            ("a@sha256:12", ParseNameFailed::Digest("sha256:12".to_owned())),
            ("a@md5:12", ParseNameFailed::Digest("md5:12".to_owned())),
        ];
        for (text, error) in rows {
            assert_eq!(parse(text).map(|name| name.whole()), Err(error), "{text:?}");
        }
        assert_eq!(parse(&"a".repeat(256)).err(), Some(ParseNameFailed::TooLong));
    }
}
