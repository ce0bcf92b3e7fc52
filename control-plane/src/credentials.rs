//! Files with secrets in them.
//!
//! Guarantees: a file is never readable for anybody but its owner, not even for a moment, and a
//! reader never sees half of it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    let directory = path.parent().with_context(what)?;
    fs::create_dir_all(directory).with_context(what)?;
    let mut name = path.file_name().with_context(what)?.to_owned();
    name.push(".new");
    let partial = directory.join(name);
    // One that a crash left over may have any mode.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(what);
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    file.sync_all().with_context(what)?;
    fs::rename(&partial, path).with_context(what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_for_the_owner_and_replace_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/admin.kubeconfig");
        write(&path, "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
