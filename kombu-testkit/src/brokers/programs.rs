use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

/// Where the programs are: in the system, or in a folder that holds a system of its own.
#[derive(Clone)]
pub(super) struct Programs {
    root: Option<PathBuf>,
}

impl Programs {
    pub(super) fn find() -> io::Result<Self> {
        let root = env::var_os("KOMBU_TEST_BROKERS_ROOT").filter(|root| !root.is_empty());
        if root.is_some() && !rustix::process::geteuid().is_root() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "brokers in a folder of their own (KOMBU_TEST_BROKERS_ROOT) are started with chroot, which takes root",
            ));
        }
        Ok(Programs {
            root: root.map(PathBuf::from),
        })
    }

    /// A command for the first of these paths that is there.
    pub(super) fn command(&self, name: &str, paths: &[PathBuf]) -> io::Result<Command> {
        let Some(path) = paths.iter().find(|path| self.outside(path).is_file()) else {
            let place = match &self.root {
                Some(root) => format!(" in {}", root.display()),
                None => String::new(),
            };
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {name}{place}; `scripts/test --install` installs it"),
            ));
        };
        let Some(root) = &self.root else {
            return Ok(Command::new(path));
        };
        // What is mounted in a namespace of the program's own goes with it. `exec` keeps the process id.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--wd", "/", "--root"])
            .arg(root)
            .args(["sh", "-c", "mount -t proc proc /proc && exec \"$@\"", "sh"])
            .arg(path);
        Ok(command)
    }

    /// A command for a program in one of the folders that have programs.
    pub(super) fn command_in_path(&self, name: &str) -> io::Result<Command> {
        // A user's own list often lacks the folders for servers.
        let servers = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
        let path = match &self.root {
            Some(_) => None,
            None => env::var_os("PATH"),
        };
        let mut folders: Vec<PathBuf> = path.iter().flat_map(env::split_paths).collect();
        folders.extend(servers.map(PathBuf::from));
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
        self.command(name, &paths)
    }

    /// A command for Redis, or for what the environment variable `KOMBU_TEST_REDIS_PROGRAM` names in its place.
    pub(super) fn redis(&self) -> io::Result<Command> {
        let program = env::var("KOMBU_TEST_REDIS_PROGRAM");
        self.command_in_path(program.as_deref().unwrap_or("redis-server"))
    }

    /// The folder for temporary files, as we see it.
    pub(super) fn temporary(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join("tmp"),
            None => env::temp_dir(),
        }
    }

    /// The same folder, as the programs see it.
    pub(super) fn temporary_inside(&self) -> PathBuf {
        match &self.root {
            Some(_) => PathBuf::from("/tmp"),
            None => env::temp_dir(),
        }
    }

    fn outside(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }
}
