//! The archive format in which a kernel takes its first file system: cpio, the "newc" kind.
//!
//! Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// An archive that grows file by file. Several of them, one after the other, count as one.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    /// Each entry needs a number of its own, or the kernel takes them for one file.
    next: u32,
    directories: Vec<String>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// Adds a file that may be run, with the directories that it lies in.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.directory(&path[..end]);
        }
        self.entry(path, PROGRAM, content);
    }

    /// Adds a directory, once.
    pub(crate) fn directory(&mut self, path: &str) {
        if !self.directories.iter().any(|known| known == path) {
            self.directories.push(path.to_owned());
            self.entry(path, DIRECTORY, &[]);
        }
    }

    /// The whole, ended.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.next += 1;
        let (links, name) = (1, path.len() + 1);
        let fields = [self.next, mode, 0, 0, links, 0, content.len() as u32];
        let device = [0; 4];
        self.bytes.extend(b"070701");
        for field in fields.iter().chain(&device).chain(&[name as u32, 0]) {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_name_their_directories() {
        let mut archive = Archive::default();
        archive.file("/bin/a", b"12345");
        archive.file("/bin/b", b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("070701").count(), 4, "bin, a, b and the end");
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        assert!(text.contains("bin/a\x0012345\0\0\x00070701"), "{text:?}");
    }
}
