//! Data directories: comparing them, damaging their files, and file systems that fill up.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every file below `dir` with its content, to see whether anything was touched.
pub fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files.extend(content(&entry.path()));
        } else {
            files.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// Copies a directory with all below it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The newest log segment of a data directory.
pub fn newest_segment(data: &Path) -> PathBuf {
    let names = std::fs::read_dir(data.join("log")).unwrap().flatten().map(|entry| entry.path());
    names.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().expect("a segment")
}

/// Offset behind the last byte of a segment that is not zero: the end of its last record.
pub fn end_of_records(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

pub fn flip(path: &Path, offset: u64) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    open(path).write_all_at(bytes, offset).unwrap();
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// A small file system in memory, unmounted when dropped.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// `None`, with the reason printed, where mounting is not permitted.
    pub fn mount(path: PathBuf, mebibytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        match output {
            Ok(output) if output.status.success() => Some(SmallDisk { path }),
            Ok(output) => {
                println!("skipped: cannot mount a small disk: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: cannot mount a small disk: {error}");
                None
            }
        }
    }

    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes space until only so much is left.
    pub fn fill(&self, leave: u64) {
        let file = File::create(self.path.join("filler")).unwrap();
        let mut taken = 0;
        // Others may take space, too, at the same time.
        while let more @ 1.. = self.free().saturating_sub(leave).next_multiple_of(4096).min(1 << 20) {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken, more) {
                Ok(()) => taken += more,
                Err(rustix::io::Errno::NOSPC) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node may not have ended yet, and the mount must not outlive the test.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
