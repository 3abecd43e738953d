//! The little of a file system that appending needs, as a port, so that tests can fill the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Makes new files.
pub(crate) trait Fs: Send + Sync {
    /// A new, empty file that only this process writes; an error where one of that name exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>>;
}

/// A file that grows at its end.
pub(crate) trait AppendFile: Send {
    /// Hands some of `bytes` to the operating system, as write(2) does: perhaps not all of them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts the file to its first `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The real one.
pub(crate) struct Disk;

impl Fs for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Box::new(file))
    }
}

impl AppendFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        self.set_len(length)
    }
}
