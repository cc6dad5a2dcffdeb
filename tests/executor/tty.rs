//! Terminals.

use std::fs::File;
use std::io::{Read, Write};

use husk::executor::Stdio;
use serde_json::json;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("terminal", terminal),
    ("terminal_of_an_exec", terminal_of_an_exec),
    ("terminal_without_devpts", terminal_without_devpts),
];

fn read_all(mut master: &File) -> String {
    let mut out = Vec::new();
    let mut buffer = [0; 1024];
    // EIO once the last slave is closed.
    while let Ok(n) = master.read(&mut buffer) {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn terminal() {
    let mut bundle = Bundle::new(
        "tty; stty size; stat -c %u /dev/pts/0; test -c /dev/console && echo console; \
        echo x > /dev/tty; read line; echo got $line",
    );
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    bundle.spec["process"]["user"]["uid"] = json!(1000);
    let (mut running, _) = bundle.launch(Stdio::default()).unwrap();
    let master = File::from(running.console.take().unwrap());
    running.start().unwrap();
    (&master).write_all(b"hello\n").unwrap();
    let text = read_all(&master);
    assert_eq!(running.wait(), 0, "{text}");
    let lines: Vec<&str> = text.lines().filter(|l| *l != "hello").collect();
    assert_eq!(
        lines,
        ["/dev/pts/0", "33 99", "1000", "console", "x", "got hello"],
        "{text:?}"
    );
}

fn terminal_without_devpts() {
    let mut bundle = Bundle::new("exit 0");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["destination"] != "/dev/pts");
    let error = bundle.run().unwrap_err();
    assert!(error.to_string().contains("devpts mount"), "{error}");
}

fn terminal_of_an_exec() {
    use crate::fixture::Running;
    let bundle = Bundle::new("exec sleep 1000");
    let (mut running, _) = bundle.launch(Stdio::default()).unwrap();
    running.start().unwrap();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", "tty; stty size; echo x > /dev/tty"]);
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({"height": 7, "width": 8});
    let process = serde_json::from_value(process).unwrap();
    let plan = husk::spec::plan::exec(&bundle.oci(), &process, &Default::default()).unwrap();
    let target = husk::executor::ExecTarget {
        pid: running.launch.pid,
        pidfd: Some(std::os::fd::AsFd::as_fd(&running.launch.pidfd)),
        cgroup: None,
    };
    let mut exec = Running::new(husk::executor::exec(&plan, &target, Stdio::default()).unwrap());
    exec.until_ready().unwrap();
    let master = File::from(exec.console.take().unwrap());
    exec.until_running().unwrap();
    assert_eq!(read_all(&master), "/dev/pts/0\r\n7 8\r\nx\r\n");
    assert_eq!(exec.wait(), 0);
}
