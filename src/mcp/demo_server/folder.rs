//! A folder that nothing escapes from: not by `..`, not by an absolute path, not by a symbolic link.
//!
//! Each part of a path is opened below the one before it, without following links, so there is no moment
//! between the check and the use.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The largest file that is read or written.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// How many entries a listing has at most.
const ENTRIES_MAX: usize = 1000;
/// How deep a path may go.
const DEPTH_MAX: usize = 16;

/// Why a file could not be used. The text goes to the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It leaves the folder.
    #[error("`{path}` leaves the folder: give a relative path without `..`")]
    Outside {
        /// As it was given.
        path: String,
    },
    /// A part of it is a symbolic link, or a file where a folder is needed.
    #[error("`{path}` goes through a symbolic link or a file; links are not followed")]
    Link {
        /// As it was given.
        path: String,
    },
    /// There is none.
    #[error("there is no `{path}`")]
    Missing {
        /// As it was given.
        path: String,
    },
    /// Not a regular file.
    #[error("`{path}` is not a file")]
    NotAFile {
        /// As it was given.
        path: String,
    },
    /// Not text.
    #[error("`{path}` is not UTF-8 text")]
    NotText {
        /// As it was given.
        path: String,
    },
    /// Too large.
    #[error("a file may have at most {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// The system says no.
    #[error("`{path}` cannot be used: {source}")]
    System {
        /// As it was given.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// One entry of a listing.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// `file`, `folder` or `other`.
    pub(super) kind: &'static str,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
}

impl Folder {
    /// Opens `path`, and makes it where it does not exist.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root = rustix::fs::open(
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { root })
    }

    /// The entries of the folder `path`, sorted by name; `""` and `.` are the folder itself.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let parts = parts(path)?;
        let folder = self.descend(&parts, path, Missing::Fails)?;
        let mut entries = Vec::new();
        let dir = Dir::read_from(&folder).map_err(|error| system(path, error))?;
        for entry in dir {
            let entry = entry.map_err(|error| system(path, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::RegularFile => "file",
                FileType::Directory => "folder",
                _ => "other",
            };
            entries.push(Entry { name, kind });
            if ENTRIES_MAX <= entries.len() {
                break;
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The text of the file `path`.
    pub(super) fn read(&self, path: &str) -> Result<String, Error> {
        let (folder, name) = self.parent(path, Missing::Fails)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&folder, name, flags, Mode::empty())
            .map_err(|error| system(path, error))?;
        let file = regular(File::from(file), path)?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::System { path: path.to_owned(), source })?;
        if FILE_BYTES_MAX < bytes.len() {
            return Err(Error::TooLarge);
        }
        String::from_utf8(bytes).map_err(|_| Error::NotText { path: path.to_owned() })
    }

    /// Writes `text` to the file `path`, and makes the folders it lies in.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<(), Error> {
        if FILE_BYTES_MAX < text.len() {
            return Err(Error::TooLarge);
        }
        let (folder, name) = self.parent(path, Missing::IsMade)?;
        // Not truncated on opening: a pipe or device of that name must not be touched.
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| system(path, error))?;
        let mut file = regular(File::from(file), path)?;
        file.set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|source| Error::System { path: path.to_owned(), source })
    }

    /// Deletes the file `path`.
    pub(super) fn delete(&self, path: &str) -> Result<(), Error> {
        let (folder, name) = self.parent(path, Missing::Fails)?;
        rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(|error| match error {
            Errno::ISDIR => Error::NotAFile { path: path.to_owned() },
            other => system(path, other),
        })
    }

    /// The folder that `path` lies in, and its last part.
    fn parent<'a>(&self, path: &'a str, missing: Missing) -> Result<(OwnedFd, &'a str), Error> {
        let parts = parts(path)?;
        let Some((name, folders)) = parts.split_last() else {
            return Err(Error::NotAFile { path: path.to_owned() });
        };
        Ok((self.descend(folders, path, missing)?, name))
    }

    fn descend(&self, folders: &[&str], path: &str, missing: Missing) -> Result<OwnedFd, Error> {
        // A fresh description of the folder, so that reading it does not move a shared position.
        let mut at = enter(&self.root, ".").map_err(|error| system(path, error))?;
        for name in folders {
            let next = match (enter(&at, name), missing) {
                (Err(Errno::NOENT), Missing::IsMade) => {
                    match rustix::fs::mkdirat(&at, *name, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => enter(&at, name),
                        Err(error) => Err(error),
                    }
                }
                (result, _) => result,
            };
            at = next.map_err(|error| system(path, error))?;
        }
        Ok(at)
    }
}

/// What becomes of a folder that does not exist.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Fails,
    IsMade,
}

fn enter(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// The parts of a relative path. `.` and empty parts say nothing and are left out.
fn parts(path: &str) -> Result<Vec<&str>, Error> {
    let outside = || Error::Outside { path: path.to_owned() };
    if path.starts_with('/') || path.contains(['\0', '\\']) {
        return Err(outside());
    }
    let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty() && *it != ".").collect();
    if parts.contains(&"..") || DEPTH_MAX < parts.len() {
        return Err(outside());
    }
    Ok(parts)
}

fn regular(file: File, path: &str) -> Result<File, Error> {
    let meta = file.metadata().map_err(|source| Error::System { path: path.to_owned(), source })?;
    if meta.is_file() { Ok(file) } else { Err(Error::NotAFile { path: path.to_owned() }) }
}

fn system(path: &str, error: Errno) -> Error {
    let path = path.to_owned();
    match error {
        Errno::NOENT => Error::Missing { path },
        Errno::LOOP | Errno::NOTDIR => Error::Link { path },
        Errno::ISDIR => Error::NotAFile { path },
        other => Error::System { path, source: other.into() },
    }
}
