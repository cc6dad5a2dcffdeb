//! What the containers of the demo run: a tiny web server and its client, from the image that is this program.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Port of the server within the pod.
const PORT: u16 = 8080;
/// Attempts of the client, a tenth of a second apart.
const ATTEMPTS: usize = 50;

/// Flags of the hidden verb.
#[derive(Args)]
pub struct Workload {
    role: Role,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Answers on the pod's port until it is stopped
    Web,
    /// Asks the server once a second
    Client,
    /// Says where it runs, and ends
    Whoami,
}

impl Workload {
    /// Runs the role; returns the exit code.
    pub fn run(&self) -> i32 {
        let outcome = match self.role {
            Role::Web => serve(),
            Role::Client => ask(),
            Role::Whoami => {
                println!("{}", whoami());
                Ok(())
            }
        };
        match outcome {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        }
    }
}

fn whoami() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let count = processes
        .filter(|e| {
            e.file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .count();
    format!(
        "pid {} of {count} processes on host {}",
        std::process::id(),
        host.trim()
    )
}

fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("web: listening on port {PORT} as {}", whoami());
    for connection in listener.incoming() {
        let mut connection = connection?;
        let mut request = [0; 512];
        let _ = connection.read(&mut request)?;
        connection.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 16\r\n\r\nhello from husk\n")?;
        println!("web: answered");
    }
    Ok(())
}

fn ask() -> std::io::Result<()> {
    let mut answer = Err(std::io::Error::other("never tried"));
    for _ in 0..ATTEMPTS {
        answer = request();
        if answer.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("client: got {:?}", answer?);
    loop {
        std::thread::park();
    }
}

fn request() -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", PORT))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text
        .rsplit("\r\n\r\n")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}
