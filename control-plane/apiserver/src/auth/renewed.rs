//! Certificates that are made anew while they are used.
//!
//! Guarantees: who asks gets a certificate that lasts for a third of its life at least, as long as
//! one can be made; connections that are open keep theirs. A certificate that is not asked for is
//! not renewed.

use super::pki::PkiFailed;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// After a certificate could not be made.
const RETRY: Duration = Duration::from_secs(60);

/// When a certificate that was made at `made` is made anew: after two thirds of its life.
pub(crate) fn renew_at(made: SystemTime, life: Duration) -> SystemTime {
    made + life * 2 / 3
}

type Make = Box<dyn Fn() -> Result<CertifiedKey, PkiFailed> + Send + Sync>;

struct Current {
    key: Arc<CertifiedKey>,
    /// By the clock that certificates are read by.
    renew_at: SystemTime,
}

/// See the module's documentation.
pub(crate) struct Renewed {
    /// Such as `the serving certificate`.
    what: &'static str,
    life: Duration,
    make: Make,
    current: Mutex<Current>,
}

impl Renewed {
    /// With a first certificate by `make`, of this life as all that follow.
    pub(crate) fn new(what: &'static str, life: Duration, make: Make) -> Result<Self, PkiFailed> {
        let renew_at = renew_at(SystemTime::now(), life);
        let current = Mutex::new(Current { key: Arc::new(make()?), renew_at });
        Ok(Self { what, life, make, current })
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        if now >= current.renew_at {
            match (self.make)() {
                Ok(key) => {
                    let renew_at = renew_at(now, self.life);
                    *current = Current { key: Arc::new(key), renew_at };
                    tracing::info!("renewed {}", self.what);
                }
                Err(error) => {
                    current.renew_at = now + RETRY;
                    tracing::error!(%error, "cannot renew {}", self.what);
                }
            }
        }
        current.key.clone()
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("what", &self.what).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
