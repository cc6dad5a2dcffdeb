//! Asks the kernel whether it has a system call, by calling it in a way that can only fail.

/// mount_setattr(2), since 5.12.
pub fn mount_setattr() -> bool {
    // SAFETY: no pointers are passed; a size of zero makes every kernel that has the call refuse it at once.
    let n = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            std::ptr::null::<u8>(),
            0,
            std::ptr::null::<u8>(),
            0usize,
        )
    };
    n >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
