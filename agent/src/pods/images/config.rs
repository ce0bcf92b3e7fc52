//! What an image says about running it.

use serde::Deserialize;

/// The part of an OCI image configuration that starting a container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    /// `user[:group]`, by name or number; empty for root.
    pub(crate) user: String,
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) stop_signal: Option<String>,
}

/// Docker writes `null` where OCI leaves a field out; both are read.
#[derive(Deserialize)]
struct Document {
    config: Option<Execution>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

impl ImageConfig {
    pub(crate) fn parse(document: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(document)?;
        let config = document.config.unwrap_or_default();
        Ok(Self {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let full = br#"{"architecture":"amd64","config":{"User":"1000:1000","Env":["A=b"],
            "Entrypoint":["/e"],"Cmd":null,"WorkingDir":"/w","StopSignal":"SIGQUIT"}}"#;
        let config = ImageConfig::parse(full).unwrap();
        assert_eq!(config.user, "1000:1000");
        assert_eq!(config.entrypoint, ["/e"]);
        assert!(config.cmd.is_empty());
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::default());
        assert!(ImageConfig::parse(b"[]").is_err());
    }
}
