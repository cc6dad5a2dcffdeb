//! Images: references, manifests, configurations, layers.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use husk::image::ImageRef;
use husk::image::fuzz;
use husk::image::layer::{LayerError, Limits};

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "\"schemaVersion\"",
    "\"mediaType\"",
    "\"manifests\"",
    "\"layers\"",
    "\"config\"",
    "\"rootfs\"",
    "\"diff_ids\"",
    "\"platform\"",
    "\"variant\"",
    "\"fsLayers\"",
    "\"size\"",
    "\"digest\"",
    "sha256:",
    "sha512:",
    "\"Env\"",
    "\"Volumes\"",
    "\"StopSignal\"",
    "SIGRTMIN+2147483647",
    "RTMAX--2147483648",
    "\"User\"",
    "\"created\"",
    "9999-12-31T23:59:59.999999999Z",
    "18446744073709551615",
    "1e400",
    "null",
    "\\u0000",
    "../",
];

pub(super) const REFERENCE_WORDS: &[&str] = &[
    "docker.io/",
    "library/",
    "localhost",
    ":5000",
    ":latest",
    "@sha256:",
    "[::1]",
    "..",
    "//",
    "__",
    "-",
    "xn--",
    "\u{e9}",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

pub(super) const TAR_WORDS: &[&str] = &[
    "ustar\u{0}00",
    "ustar  \u{0}",
    "././@LongLink",
    "GNU.sparse.major=1\n",
    "GNU.sparse.map=0,1,2,3\n",
    "SCHILY.xattr.",
    "11 path=x\n",
    "20 size=999999999999\n",
    "30 mtime=-9223372036854775808.9\n",
    "path=",
    "linkpath=",
    "../",
    "/",
    "\u{0}",
    "77777777777\u{0}",
];

pub(super) fn config(data: &[u8]) -> Said {
    match fuzz::config(data) {
        Ok(defaults) => {
            let record = serde_json::to_string(&defaults).unwrap_or_default();
            // It is kept in the database.
            assert_eq!(serde_json::from_str(&record).ok(), Some(&defaults).cloned());
            super::cri::container_of(&super::cri::plain_container(), &super::cri::defaults(defaults))
        }
        Err(e) => e,
    }
}

/// Input: the document, perhaps with the content type the registry gave before it, on a line of its own.
pub(super) fn manifest(data: &[u8]) -> Said {
    let (content_type, document) = match data.iter().position(|b| *b == b'\n') {
        Some(end) if !data.starts_with(b"{") => (std::str::from_utf8(&data[..end]).ok(), &data[end + 1..]),
        _ => (None, data),
    };
    match fuzz::manifest(document, content_type) {
        Ok(layers) => format!("{layers:?}"),
        Err(e) => e,
    }
}

pub(super) fn reference(data: &[u8]) -> Said {
    let text = String::from_utf8_lossy(data);
    match ImageRef::parse(&text) {
        Ok(reference) => {
            let shown = reference.to_string();
            assert_eq!(ImageRef::parse(&shown).as_ref(), Ok(&reference), "{shown}");
            let familiar = reference.familiar();
            assert_eq!(ImageRef::parse(&familiar).as_ref(), Ok(&reference), "{familiar}");
            // Repository and tag become parts of URLs, the registry the name of a directory.
            let climbs = shown
                .split(['/', ':', '@'])
                .any(|part| matches!(part, "." | ".."));
            assert!(!climbs && !shown.contains([' ', '%', '?', '#', '\\']), "{shown}");
            format!("{} {}", reference.tag().is_some(), reference.digest().is_some())
        }
        Err(e) => e.to_string(),
    }
}

pub(super) fn tar(data: &[u8]) -> Said {
    let limits = Limits {
        entries: 10_000,
        bytes: 1 << 40,
        ..Limits::default()
    };
    // However the archive is cut into chunks, it says the same.
    let (whole, pieces) = (read_tar(data, 1 << 20, &limits), read_tar(data, 512, &limits));
    assert_eq!(whole, pieces);
    whole
}

fn read_tar(data: &[u8], chunk: usize, limits: &Limits) -> Said {
    let mut hasher = DefaultHasher::new();
    let mut entries = 0u64;
    let outcome = fuzz::archive(data, chunk, limits, |entry, bytes| {
        assert!(!entry.path.contains(&0) && !entry.link.contains(&0), "{entry:?}");
        assert!(entry.mtime.nanos < 1_000_000_000, "{entry:?}");
        assert!(entry.mode <= 0o7777, "{entry:?}");
        if let Some(regions) = &entry.regions {
            assert!(
                regions.iter().all(|r| r
                    .offset
                    .checked_add(r.length)
                    .is_some_and(|end| end <= entry.size)),
                "{entry:?}"
            );
            assert_eq!(regions.iter().map(|r| r.length).sum::<u64>(), bytes, "{entry:?}");
        } else {
            assert!(bytes == entry.size || bytes == 0, "{entry:?}: {bytes}");
        }
        format!("{entry:?}{bytes}").hash(&mut hasher);
        entries += 1;
    });
    let end = match outcome {
        Ok(()) => "whole".to_owned(),
        Err(e) => describe(&e),
    };
    format!("{entries} entries {:x} {end}", hasher.finish())
}

fn describe(error: &LayerError) -> Said {
    error.to_string()
}
