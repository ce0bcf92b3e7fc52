//! A store that gets into trouble when it is told to.

use crate::store::{BeforeWrite, Hooked, RedbStore, Retention, StoreError};
use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What becomes of a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// It fails for want of room.
    Full,
    /// It is one too many.
    Busy,
    /// It is never answered.
    Stuck,
}

/// Makes the writes of a real store fail.
#[derive(Default)]
pub(super) struct Faulty {
    trouble: Mutex<Option<Trouble>>,
}

impl Faulty {
    /// A store and what makes it fail.
    pub(super) fn open(dir: &Path) -> (Hooked<Self>, Arc<Self>) {
        let engine = RedbStore::open(&dir.join("faulty.redb"), Retention::default()).unwrap();
        let faulty = Arc::<Self>::default();
        (Hooked::new(Arc::new(engine), faulty.clone()), faulty)
    }

    pub(super) fn set(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap() = trouble;
    }
}

impl BeforeWrite for Faulty {
    fn before(&self, _: &str) -> BoxFuture<'static, Result<(), StoreError>> {
        let failed = match *self.trouble.lock().unwrap() {
            None => return ready(Ok(())).boxed(),
            Some(Trouble::Full) => StoreError::Engine("No space left on device".to_owned()),
            Some(Trouble::Busy) => StoreError::Overloaded { waiting: 4096 },
            Some(Trouble::Stuck) => return pending().boxed(),
        };
        ready(Err(failed)).boxed()
    }
}
