//! How fast layers become directories: `cargo bench --bench unpack -- <layer file> <directory> [runs]`.
//!
//! The directory should be on a file system with a journal: ext4 without one avoids recently deleted inodes for
//! minutes, which makes everything that creates files after a large deletion look several times too slow.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use husk::image::layer::{Expected, LayerError, Limits, Unpacked, remove_tree, unpack};
use husk::types::Digest;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [layer, dir, rest @ ..] = args.as_slice() else {
        println!("usage: cargo bench --bench unpack -- <layer file> <directory> [runs]");
        return Ok(());
    };
    let runs = rest.first().map_or(Ok(5), |runs| runs.parse::<usize>())?.max(1);
    let (layer, dest) = (PathBuf::from(layer), Path::new(dir).join("husk-bench-unpack"));
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..runs {
        let (time, unpacked) = run(&layer, &dest)?;
        println!("  {:.3} s", time.as_secs_f64());
        times.push(time);
        last = Some(unpacked);
    }
    times.sort();
    let median = times[times.len() / 2].as_secs_f64();
    if let Some(layer) = last {
        let (blob, size, inodes) = (
            layer.blob_size as f64 / 1e6,
            layer.size as f64 / 1e6,
            layer.inodes as f64,
        );
        println!("median {median:.3} s of {runs}: {blob:.0} MB became {size:.0} MB in {inodes} inodes");
        println!(
            "{:.0} MB/s read, {:.0} MB/s written, {:.0} inodes/s",
            blob / median,
            size / median,
            inodes / median
        );
    }
    Ok(())
}

fn run(layer: &Path, dest: &Path) -> Result<(Duration, Unpacked), Box<dyn Error>> {
    remove_tree(dest)?;
    fs::create_dir(dest)?;
    let diff_id = diff_id(layer, dest)?;
    let expected = Expected {
        blob: None,
        blob_size: Some(fs::metadata(layer)?.len()),
        diff_id: &diff_id,
    };
    let start = Instant::now();
    let unpacked = unpack(File::open(layer)?, &expected, dest, &[], &Limits::default())?;
    let time = start.elapsed();
    remove_tree(dest)?;
    Ok((time, unpacked))
}

/// Learns the diff id from the complaint about a wrong one. Keeps it for the next run.
fn diff_id(layer: &Path, dest: &Path) -> Result<Digest, Box<dyn Error>> {
    static KNOWN: std::sync::OnceLock<Digest> = std::sync::OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let wrong = Digest::sha256(b"not this one");
    let expected = Expected {
        blob: None,
        blob_size: None,
        diff_id: &wrong,
    };
    match unpack(File::open(layer)?, &expected, dest, &[], &Limits::default()) {
        Err(LayerError::Digest { actual, .. }) => {
            remove_tree(dest)?;
            fs::create_dir(dest)?;
            Ok(KNOWN.get_or_init(|| actual.parse().unwrap_or(wrong)).clone())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err("an impossible digest matched".into()),
    }
}
