//! Where a program runs: a network namespace and a cgroup, as a node's processes or a pod's
//! containers have them.
//!
//! Guarantees: the program is in its cgroup before it is executed, so its first connect() passes
//! the hooks that are attached there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::command;

/// A place to start programs in.
#[derive(Clone, Debug)]
pub struct Place {
    /// Absolute path of a cgroup2 directory; none stays where we are.
    cgroup: Option<PathBuf>,
    enter: Enter,
}

#[derive(Clone, Debug)]
enum Enter {
    /// A network namespace, by its path.
    Network(PathBuf),
    /// All namespaces of a process, that is: a container.
    Process(u32),
}

impl Place {
    /// A network namespace, without a cgroup.
    pub fn network(namespace: &Path) -> Self {
        Self { cgroup: None, enter: Enter::Network(namespace.to_path_buf()) }
    }

    /// The namespaces of a process.
    pub fn process(pid: u32) -> Self {
        Self { cgroup: None, enter: Enter::Process(pid) }
    }

    /// The same place, in a cgroup.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Path) -> Self {
        self.cgroup = Some(cgroup.to_path_buf());
        self
    }

    /// Whether programs see the container's file system instead of the machine's.
    pub fn is_container(&self) -> bool {
        matches!(self.enter, Enter::Process(_))
    }

    /// A command that runs there. Arguments are added as usual.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        // The shell joins the cgroup, then becomes the program: no process is left in between.
        let mut shell = command("sh");
        let script =
            "if [ -n \"$0\" ]; then echo $$ > \"$0/cgroup.procs\" || exit 97; fi; exec \"$@\"";
        shell.arg("-c").arg(script);
        shell.arg(self.cgroup.clone().unwrap_or_default());
        shell.arg("nsenter");
        match &self.enter {
            Enter::Network(path) => {
                shell.arg(format!("--net={}", path.display()));
            }
            Enter::Process(pid) => {
                shell.arg(format!("--target={pid}"));
                shell.args(["--mount", "--net", "--ipc", "--uts", "--pid", "--root", "--wd"]);
            }
        }
        shell.arg("--").arg(program.as_ref());
        shell
    }
}
