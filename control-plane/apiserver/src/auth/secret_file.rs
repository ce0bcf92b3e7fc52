//! Files with secrets in them.
//!
//! Guarantees: a file is never readable for anybody but its owner, not even for a moment; a reader
//! never sees half of it, and after a crash there is the whole file or the one before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `text` to `path`, mode 0600, in one step. Missing directories are made.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A name alone is one in the working directory.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    fs::create_dir_all(directory)?;
    let mut new = name.to_owned();
    new.push(".new");
    let new = directory.join(new);
    // One that a crash left over may have any mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The only test here that changes the process's directory; the others use whole paths.
    #[test]
    fn a_name_alone_is_a_file_here() {
        let directory = tempfile::tempdir().unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        write(Path::new("admin.kubeconfig"), "one").unwrap();
        let written = fs::read_to_string(directory.path().join("admin.kubeconfig")).unwrap();
        assert_eq!(written, "one");
    }

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
