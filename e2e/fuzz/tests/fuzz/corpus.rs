//! Inputs on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use husk_fuzz::Target;

/// The inputs that are kept for `target`.
pub fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// Reads them, in the order of their names.
pub fn read(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory(target))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    paths.into_iter().map(|p| Ok((p.clone(), fs::read(p)?))).collect()
}

/// Writes the seeds of all targets.
pub fn write_seeds() -> io::Result<()> {
    for target in husk_fuzz::TARGETS {
        let directory = directory(target);
        fs::create_dir_all(&directory)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(directory.join(name), bytes)?;
        }
    }
    Ok(())
}

/// Keeps an input that broke something, for whoever looks into it.
pub fn keep(target: &Target, input: &[u8]) -> PathBuf {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = scratch().join(format!("{}-{hash:016x}", target.name));
    if let Err(e) = fs::write(&path, input) {
        println!("cannot write {}: {e}", path.display());
    }
    path
}

/// Where the runner's own files go: cargo's directory for them.
pub fn scratch() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    // What fails here fails again, with a message, where a file is written.
    let _ = fs::create_dir_all(&directory);
    directory
}
