//! The invariants that `src/lib.rs` states, kept by reading the source.
//!
//! The fifth, that the daemon holds nothing it cannot rebuild, cannot be read off the text: `e2e/tests/restart.rs` kills
//! the daemon instead.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that run in small single-threaded processes.
const SMALL: [&str; 6] = ["supervisor", "executor", "spec", "seccomp", "types", "sys"];

/// Crates that a small process must not carry: async runtimes, gRPC, HTTP, the database, D-Bus.
const HEAVY: [&str; 14] = [
    "tokio",
    "tokio_util",
    "tokio_stream",
    "tokio_rustls",
    "tonic",
    "tonic_prost",
    "tower",
    "hyper",
    "hyper_util",
    "http",
    "rustls",
    "rusqlite",
    "zbus",
    "futures_util",
];

/// Imports point down only: a module may name modules of its own height and below.
const HEIGHTS: &[(&str, u8)] = &[
    ("daemon", 5),
    ("cli", 4),
    ("cri", 4),
    ("api", 4),
    ("nri", 4),
    ("stream", 4),
    ("exporter", 4),
    ("pod", 3),
    ("image", 3),
    ("stats", 3),
    ("network", 2),
    ("state", 2),
    ("spec", 2),
    ("supervisor", 2),
    ("executor", 2),
    ("cgroup", 2),
    ("seccomp", 2),
    ("telemetry", 2),
    ("socket", 2),
    ("config", 1),
    ("types", 1),
    ("host", 1),
    ("sys", 0),
];

/// A source file: where it is, and what is left of it without comments and literals.
struct Source {
    path: PathBuf,
    code: String,
}

impl Source {
    /// The path below `src/`, such as `pod/launcher/mod.rs`.
    fn name(&self) -> String {
        self.path
            .strip_prefix(root().join("src"))
            .unwrap()
            .display()
            .to_string()
    }

    /// The top-level module it belongs to.
    fn module(&self) -> String {
        self.name()
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned()
    }

    /// Whether it holds unit tests or their stand-ins only, which may start what programs they like.
    fn is_test(&self) -> bool {
        is_test(&self.path)
    }

    fn is_within(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            self.name() == format!("{place}.rs") || self.name().starts_with(&format!("{place}/"))
        })
    }

    fn words(&self) -> BTreeSet<&str> {
        self.code
            .split(|c: char| !is_word(c))
            .filter(|w| !w.is_empty())
            .collect()
    }

    /// The modules of this crate that it names by `crate::...`.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(first_words(group)),
                None => found.extend(word_at(rest).map(str::to_owned)),
            }
        }
        found
    }
}

/// `tests/`, `tests.rs`, `conf_tests.rs` and the stand-ins that tests use in place of a module.
fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_string_lossy();
    stem == "fake" || stem == "tests" || stem.ends_with("_tests") || path.iter().any(|part| part == "tests")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_at(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// The first word of each member of a `{...}` group whose opening brace is already read.
fn first_words(group: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.extend(word_at(&group[start..at]).map(str::to_owned));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a directory, in order, leaving out what is built or kept by tools.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let all: Vec<_> = files(&root().join("src"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| Source {
            code: strip(&fs::read_to_string(&path).unwrap()),
            path,
        })
        .collect();
    assert!(all.len() > 20, "only {} source files found", all.len());
    all
}

/// Blanks out comments, strings and characters, so that words in them do not count.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = literal_or_comment(rest, out.chars().last());
        if skipped > 0 {
            out.extend(
                rest[..skipped]
                    .chars()
                    .map(|c| if c == '\n' { '\n' } else { ' ' }),
            );
            rest = &rest[skipped..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// How many bytes at the start of `text` are a comment or a literal; 0 if it starts with code.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |at| at + 2);
    }
    if let Some(inner) = text.strip_prefix('"') {
        return closing_quote(inner, '"').map_or(text.len(), |at| at + 2);
    }
    let within_word = before.is_some_and(is_word);
    if !within_word && let Some(hashes) = raw_string(text) {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.find('"').unwrap() + 1;
        return text[start..]
            .find(&end)
            .map_or(text.len(), |at| start + at + end.len());
    }
    if let Some(inner) = text.strip_prefix('\'') {
        // A lifetime has no closing quote right after its first character.
        let escaped = inner.starts_with('\\');
        let first = inner.chars().next().map_or(0, char::len_utf8);
        if escaped || inner[first..].starts_with('\'') {
            return closing_quote(inner, '\'').map_or(text.len(), |at| at + 2);
        }
    }
    0
}

/// The number of hashes of a raw string that starts here.
fn raw_string(text: &str) -> Option<usize> {
    let text = text.strip_prefix('b').unwrap_or(text).strip_prefix('r')?;
    let hashes = text.len() - text.trim_start_matches('#').len();
    text[hashes..].starts_with('"').then_some(hashes)
}

fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// Fails with every breach at once.
fn assert_none(what: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{what}:\n  {}", breaches.join("\n  "));
}

#[test]
fn unsafe_is_under_sys_only() {
    let breaches = sources()
        .iter()
        .filter(|s| !s.is_within(&["sys"]))
        .filter(|s| s.words().contains("unsafe") || s.code.contains("allow(unsafe_code)"))
        .map(Source::name)
        .collect();
    assert_none("unsafe outside sys/", breaches);
}

#[test]
fn small_processes_name_nothing_heavy() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| SMALL.contains(&s.module().as_str())) {
        let words = source.words();
        for heavy in HEAVY
            .iter()
            .filter(|h| words.contains(**h) && names_crate(&source.code, h))
        {
            breaches.push(format!("{} names {heavy}", source.name()));
        }
        let allowed = |module: &str| SMALL.contains(&module) || module == "cgroup" || !is_module(module);
        for module in source.imports().iter().filter(|m| !allowed(m)) {
            breaches.push(format!("{} names crate::{module}", source.name()));
        }
    }
    assert_none("small processes must stay small", breaches);
}

/// Whether the code says `name::`: a variable may be called like a crate.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::"))
        .any(|(at, _)| !code[..at].ends_with(|c| is_word(c) || c == ':'))
}

fn is_module(name: &str) -> bool {
    HEIGHTS.iter().any(|(module, _)| *module == name)
}

fn height(module: &str) -> Option<u8> {
    HEIGHTS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, height)| *height)
}

#[test]
fn imports_point_down() {
    let mut breaches = Vec::new();
    for source in sources() {
        let module = source.module();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = height(&module) else {
            breaches.push(format!(
                "{}: say in this test how high {module} stands",
                source.name()
            ));
            continue;
        };
        for other in source.imports().iter().filter(|m| **m != module) {
            // `husk serve` is a command too.
            let serve = source.name() == "cli/mod.rs" && other == "daemon";
            if height(other).is_some_and(|other| other > own) && !serve {
                breaches.push(format!(
                    "{} names crate::{other}, which stands above it",
                    source.name()
                ));
            }
        }
    }
    assert_none("imports point down only", breaches);
}

#[test]
fn generated_types_stay_in_the_fronts_and_on_the_wire() {
    let mut breaches = Vec::new();
    for source in sources() {
        // The command line is a client of both APIs; the composition root names the two servers that it mounts.
        let own = if source.is_within(&["daemon"]) {
            "_server::"
        } else {
            ""
        };
        let foreign = |line: &&str| line.contains("cri::proto") || line.contains("api::proto");
        let named = source
            .code
            .lines()
            .filter(foreign)
            .any(|line| own.is_empty() || !line.contains(own));
        if !source.is_within(&["cri", "api", "cli"]) && (named || source.code.contains("include_proto!")) {
            breaches.push(format!("{} names generated types of an API", source.name()));
        }
        if !source.is_within(&["nri"]) && source.code.contains("nri::proto") {
            breaches.push(format!("{} names generated types of NRI", source.name()));
        }
        // The supervisor's wire and what is said to criu are written by hand, and lists are sent as bytes that were
        // encoded before.
        if !source.is_within(&["supervisor/wire", "executor/criu", "cri/list", "nri"])
            && names_crate(&source.code, "prost")
        {
            breaches.push(format!("{} names prost", source.name()));
        }
    }
    assert_none(
        "generated types appear in cri/, api/, cli/, nri/ and supervisor/wire/ only",
        breaches,
    );
}

#[test]
fn each_power_has_one_place() {
    // Words that stand for a power, and where it may be used. sys/ wraps the calls, and has no policy.
    let powers: [(&str, &[&str], &[&str]); 3] = [
        (
            "starts programs",
            &["Command"],
            &[
                "pod/launcher",
                "pod/handler/probe",
                "pod/criu",
                "network",
                "image/verifier",
                "cli/demo",
                "executor/hooks",
            ],
        ),
        (
            "clones",
            &["clone3", "fork", "vfork", "posix_spawn"],
            &["executor", "supervisor", "sys"],
        ),
        ("opens the database", &["rusqlite"], &["state"]),
    ];
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let words = source.words();
        for (power, names, places) in &powers {
            let used = names.iter().find(|name| words.contains(**name));
            // clap's own Command, and an enumeration of that name, start nothing.
            let starts = |name: &str| name != "Command" || source.code.contains("Command::new");
            if let Some(name) = used.filter(|name| starts(name) && !source.is_within(places)) {
                breaches.push(format!("{} {power} ({name})", source.name()));
            }
        }
    }
    assert_none("each power has one place", breaches);
}

#[test]
fn files_are_short() {
    let breaches = files(root())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, path)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert_none("files over 600 lines", breaches);
}

#[test]
fn every_module_says_what_it_owns() {
    let breaches = files(&root().join("src"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs") && !is_test(path))
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("modules without a first line of documentation", breaches);
}

#[test]
fn the_repository_stands_by_itself() {
    // Written in pieces, so that this file does not hold them. Places of the machine it was written on, and hosts that
    // a build must not depend on by name.
    let words = [
        ["/wo", "rk/"],
        ["/fa", "rm/"],
        [".lib", "rary"],
        ["before-", "stop"],
        ["deb.deb", "ian.org"],
        ["crat", "es.io"],
        ["py", "pi.org"],
        ["registry.np", "mjs"],
    ]
    .map(|pieces| pieces.concat());
    let mut breaches = Vec::new();
    for path in files(root()).iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                breaches.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert_none("words that do not belong here", breaches);
}

#[test]
fn the_reader_of_this_test_can_read() {
    let text = "use crate::{a::b, c}; // crate::d\nlet s = \"crate::e\"; let t: &'static str = r#\"\"crate::f\"#;\n\
                let c = '\"'; crate::g::h(); /* crate::i */ let l: Foo<'a> = crate ::j;";
    let source = Source {
        path: root().join("src/x.rs"),
        code: strip(text),
    };
    let imports: Vec<_> = source.imports().into_iter().collect();
    assert_eq!(imports, ["a", "c", "g"]);
    assert!(!source.words().contains("i") && source.words().contains("Foo"));
    assert!(names_crate("use tokio::fs;", "tokio") && !names_crate("let x = my_tokio::y;", "tokio"));
}
