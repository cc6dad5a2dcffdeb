//! `tmpcopyup`: a tmpfs that starts with a copy of the directory it covers.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::error::{During, LaunchError, Step};
use super::mounts::attach;
use super::path::by_fd;

/// Deeper trees are refused rather than followed.
const MAX_DEPTH: usize = 128;

/// Mounts a tmpfs on `target`, filled with what `target` held.
pub(super) fn mount_over(target: &OwnedFd, source: &str, flags: u64, data: &str) -> Step {
    let tmpfs = new_tmpfs(source, flags, data).during("create", || "tmpfs")?;
    // `target` is a handle only; reading needs it opened.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old =
        rustix::fs::open(by_fd(target), flags, Mode::empty()).during("open", || "directory to copy up")?;
    let new = openat(&tmpfs, ".", flags, Mode::empty()).during("open", || "tmpfs")?;
    copy_directory(&old, &new, 0)
        .during("copy", || "the image's files to a tmpfs")
        .map_err(no_space)?;
    attach(&tmpfs, target).during("mount", || "tmpfs")
}

fn no_space(e: LaunchError) -> LaunchError {
    match e.errno {
        Some(libc::ENOSPC) => e.advise("give the tmpfs a larger size="),
        _ => e,
    }
}

fn new_tmpfs(source: &str, flags: u64, data: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for option in options(data).filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value.trim_matches('"'))?,
            None => fsconfig_set_flag(&context, option)?,
        }
    }
    fsconfig_create(&context)?;
    // The four lowest MS_* bits and MOUNT_ATTR_* bits are the same; the others matter little to a tmpfs.
    let attributes = MountAttrFlags::from_bits_retain((flags & 0xf) as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The options in `data`, one by one; a comma in quotes belongs to its option.
fn options(data: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    data.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

fn copy_directory(old: &OwnedFd, new: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(old)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(old, new, name, depth)?;
        }
    }
    let stat = rustix::fs::fstat(old)?;
    fchown(new, owner(&stat).0, owner(&stat).1)?;
    fchmod(new, Mode::from_raw_mode(stat.st_mode))?;
    futimens(new, &times(&stat))
}

fn copy_entry(old: &OwnedFd, new: &OwnedFd, name: &std::ffi::CStr, depth: usize) -> Result<(), Errno> {
    let stat = statat(old, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(new, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = openat(old, name, flags, Mode::empty())?;
            let to = openat(new, name, flags, Mode::empty())?;
            return copy_directory(&from, &to, depth + 1);
        }
        FileType::RegularFile => return copy_file(old, new, name, &stat),
        FileType::Symlink => {
            let target = readlinkat(old, name, Vec::new())?;
            symlinkat(target, new, name)?;
        }
        kind => mknodat(new, name, kind, mode, stat.st_rdev)?,
    }
    let (uid, gid) = owner(&stat);
    chownat(new, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(new, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_file(old: &OwnedFd, new: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> Result<(), Errno> {
    let from = openat(
        old,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let to = openat(
        new,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    while rustix::fs::sendfile(&to, &from, None, 1 << 24)? > 0 {}
    let (uid, gid) = owner(stat);
    fchown(&to, uid, gid)?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    futimens(&to, &times(stat))
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: i64::try_from(nsec).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_quotes_is_part_of_an_option() {
        let found: Vec<_> = options(r#"mode=755,context="u:r:t:s0:c1,c2",size=4k"#).collect();
        assert_eq!(found, ["mode=755", r#"context="u:r:t:s0:c1,c2""#, "size=4k"]);
    }
}
