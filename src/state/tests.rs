#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use super::*;
use crate::types::Kind;

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/state.db");
    (dir, path)
}

#[test]
fn values_come_back_and_go() {
    let (_dir, path) = fresh();
    let db = Db::open(&path).unwrap();
    db.put(Table::Pods, "b", b"1").unwrap();
    db.put(Table::Pods, "a", b"\0\xff").unwrap();
    db.put(Table::Pods, "b", b"2").unwrap();
    db.put(Table::Images, "b", b"other table").unwrap();
    assert_eq!(db.get(Table::Pods, "b").unwrap().unwrap(), b"2");
    assert_eq!(
        db.all(Table::Pods).unwrap(),
        [("a".into(), b"\0\xff".to_vec()), ("b".into(), b"2".to_vec())]
    );
    db.delete(Table::Pods, "b").unwrap();
    db.delete(Table::Pods, "never").unwrap();
    assert_eq!(db.get(Table::Pods, "b").unwrap(), None);
}

#[test]
fn a_list_of_changes_is_applied_whole_and_in_order() {
    let (_dir, path) = fresh();
    let db = Db::open(&path).unwrap();
    db.apply_durable(&[
        Op::Put(Table::Meta, "k".into(), b"first".to_vec()),
        Op::Delete(Table::Meta, "k".into()),
        Op::Put(Table::Meta, "k".into(), b"last".to_vec()),
        Op::Put(Table::Layers, "l".into(), vec![]),
    ])
    .unwrap();
    assert_eq!(db.get(Table::Meta, "k").unwrap().unwrap(), b"last");
    assert_eq!(db.get(Table::Layers, "l").unwrap().unwrap(), b"");
}

#[test]
fn survives_closing_and_many_checkpoints() {
    let (_dir, path) = fresh();
    let db = Db::open(&path).unwrap();
    let value = vec![7; 64 << 10];
    for i in 0..3000 {
        db.put(Table::Containers, &format!("{:03}", i % 50), &value)
            .unwrap();
    }
    drop(db);
    let db = Db::open(&path).unwrap();
    assert_eq!(db.all(Table::Containers).unwrap().len(), 50);
    assert_eq!(db.get(Table::Containers, "049").unwrap().unwrap(), value);
}

#[test]
fn a_second_user_is_kept_out_and_told_why() {
    let (_dir, path) = fresh();
    let db = Db::open(&path).unwrap();
    let error = Db::open(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains("another husk"), "{error}");
    drop(db);
    Db::open(&path).unwrap();
}

#[test]
fn what_is_not_a_husk_database_is_refused() {
    let (_dir, path) = fresh();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();

    std::fs::write(
        &path,
        "not a database at all, but long enough to have a header ".repeat(4),
    )
    .unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(error.message().contains("not a SQLite database"), "{error}");

    std::fs::remove_file(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(error.message().contains("another program"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_dir, path) = fresh();
    drop(Db::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(error.message().contains("newer husk"), "{error}");
    let version: i32 = Connection::open(&path)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}

#[test]
fn damage_is_reported_with_what_to_do() {
    let (_dir, path) = fresh();
    let db = Db::open(&path).unwrap();
    for i in 0..200 {
        db.put(Table::Pods, &i.to_string(), &[1; 3000]).unwrap();
    }
    drop(db);
    let mut bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[4096..len / 2].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(
        error.message().contains("damaged") && error.message().contains("move it"),
        "{error}"
    );
}

/// Not a test of its own: the writer that the next test kills.
#[test]
#[ignore = "run by survives_sigkill_of_the_writer"]
fn endless_writer() {
    let Some(path) = std::env::var_os("HUSK_TEST_STATE_DB") else {
        return;
    };
    let db = Db::open(Path::new(&path)).unwrap();
    for i in 0u64.. {
        db.apply(&[
            Op::Put(Table::Pods, "left".into(), i.to_string().into_bytes()),
            Op::Put(Table::Containers, "right".into(), i.to_string().into_bytes()),
            Op::Put(Table::Layers, format!("{:04}", i % 1000), vec![0; 9000]),
        ])
        .unwrap();
        if i == 2000 {
            println!("\nenough");
        }
    }
}

#[test]
fn survives_sigkill_of_the_writer() {
    use std::io::{BufRead as _, BufReader};

    let (_dir, path) = fresh();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "state::tests::endless_writer",
            "--ignored",
            "--nocapture",
        ])
        .env("HUSK_TEST_STATE_DB", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let seen = out.lines().any(|line| line.unwrap() == "enough");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "the writer ended early");

    let db = Db::open(&path).unwrap();
    let left = db.get(Table::Pods, "left").unwrap().unwrap();
    assert_eq!(left, db.get(Table::Containers, "right").unwrap().unwrap());
    let left: u64 = String::from_utf8(left).unwrap().parse().unwrap();
    assert!(
        left >= 2000,
        "commit {left} is older than what the writer had reported"
    );
}
