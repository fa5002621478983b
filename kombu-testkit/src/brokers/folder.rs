use std::path::{Path, PathBuf};
use std::{fs, io, process};

use super::programs::Programs;

/// A folder of a broker's own, removed with it. Its programs may see it under another name than we do.
pub(super) struct Folder {
    outside: PathBuf,
    inside: PathBuf,
}

impl Folder {
    pub(super) fn create(programs: &Programs, broker: &str, port: u16) -> io::Result<Self> {
        let name = format!("kombu-{broker}-{}-{port}", process::id());
        let folder = Folder {
            outside: programs.temporary().join(&name),
            inside: programs.temporary_inside().join(&name),
        };
        fs::create_dir_all(folder.data())?;
        Ok(folder)
    }

    /// The folder, as we see it.
    pub(super) fn path(&self) -> &Path {
        &self.outside
    }

    /// A file or folder in it, as the broker sees it.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.inside.join(name)
    }

    /// Writes a file, and returns its name as the broker sees it.
    pub(super) fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        fs::write(self.outside.join(name), content)?;
        Ok(self.inside(name))
    }

    fn data(&self) -> PathBuf {
        self.outside.join(DATA)
    }

    pub(super) fn erase_data(&self) -> io::Result<()> {
        fs::remove_dir_all(self.data())?;
        fs::create_dir(self.data())
    }
}

/// The folder for what a broker keeps.
pub(super) const DATA: &str = "data";

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.outside));
    }
}
