//! The C library's heap.

/// Gives free memory back to the kernel. Worth its few microseconds after a burst of allocation in a process that will
/// then sit idle for days.
pub fn trim() {
    // SAFETY: malloc_trim has no preconditions.
    unsafe { libc::malloc_trim(0) };
}
