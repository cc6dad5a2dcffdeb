//! A tar writer that can also write what no honest tool writes: `../` in names, links that escape, lying sizes.

/// What an entry is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A regular file.
    File(Vec<u8>),
    /// A directory.
    Dir,
    /// A symbolic link to the text given.
    Symlink(String),
    /// A hard link to the member named.
    Hardlink(String),
    /// A named pipe.
    Fifo,
    /// A character device: major, minor.
    Char(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
}

/// One member of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    name: String,
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    xattrs: Vec<(String, Vec<u8>)>,
    claimed_size: Option<u64>,
}

impl Entry {
    /// A member owned by root, with mode 0755 for directories and 0644 for the rest.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        let mode = if matches!(kind, Kind::Dir) { 0o755 } else { 0o644 };
        Self {
            name: name.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            xattrs: Vec::new(),
            claimed_size: None,
        }
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Sets the modification time, in seconds since 1970.
    #[must_use]
    pub fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.into(), value.into()));
        self
    }

    /// Claims this many bytes of content in the header, whatever follows.
    #[must_use]
    pub fn claim_size(mut self, size: u64) -> Self {
        self.claimed_size = Some(size);
        self
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut records = Vec::new();
        if self.name.len() > 100 {
            record(&mut records, "path", self.name.as_bytes());
        }
        if self.link().len() > 100 {
            record(&mut records, "linkpath", self.link().as_bytes());
        }
        for (name, value) in &self.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if !records.is_empty() {
            header(
                out,
                &Head {
                    name: "pax",
                    kind: b'x',
                    size: records.len() as u64,
                    mode: 0o644,
                    ..Head::default()
                },
            );
            body(out, &records);
        }
        let data: &[u8] = if let Kind::File(data) = &self.kind {
            data
        } else {
            &[]
        };
        let (kind, device) = match self.kind {
            Kind::File(_) => (b'0', None),
            Kind::Hardlink(_) => (b'1', None),
            Kind::Symlink(_) => (b'2', None),
            Kind::Char(major, minor) => (b'3', Some((major, minor))),
            Kind::Block(major, minor) => (b'4', Some((major, minor))),
            Kind::Dir => (b'5', None),
            Kind::Fifo => (b'6', None),
        };
        header(
            out,
            &Head {
                name: &self.name,
                link: self.link(),
                kind,
                size: self.claimed_size.unwrap_or(data.len() as u64),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
                mtime: self.mtime,
                device,
            },
        );
        body(out, data);
    }

    fn link(&self) -> &str {
        match &self.kind {
            Kind::Symlink(to) | Kind::Hardlink(to) => to,
            _ => "",
        }
    }
}

#[derive(Default)]
struct Head<'a> {
    name: &'a str,
    link: &'a str,
    kind: u8,
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    device: Option<(u32, u32)>,
}

fn header(out: &mut Vec<u8>, head: &Head<'_>) {
    let mut block = [0u8; 512];
    put(&mut block[0..100], head.name.as_bytes());
    octal(&mut block[100..108], u64::from(head.mode));
    octal(&mut block[108..116], head.uid);
    octal(&mut block[116..124], head.gid);
    octal(&mut block[124..136], head.size);
    octal(&mut block[136..148], head.mtime);
    block[148..156].fill(b' ');
    block[156] = head.kind;
    put(&mut block[157..257], head.link.as_bytes());
    put(&mut block[257..265], b"ustar\x0000");
    if let Some((major, minor)) = head.device {
        octal(&mut block[329..337], u64::from(major));
        octal(&mut block[337..345], u64::from(minor));
    }
    let sum = block.iter().map(|&b| u64::from(b)).sum();
    octal(&mut block[148..155], sum);
    out.extend_from_slice(&block);
}

fn body(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Copies what fits; a longer name comes in a pax record.
fn put(field: &mut [u8], value: &[u8]) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Octal digits and a NUL, or GNU's base 256 for what does not fit.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if text.len() <= digits {
        put(field, text.as_bytes());
    } else {
        let n = field.len();
        field.fill(0);
        field[n - 8..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
    }
}

/// A pax record, whose length counts its own digits.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut total = rest + 1;
    while total != rest + total.to_string().len() {
        total = rest + total.to_string().len();
    }
    out.extend_from_slice(format!("{total} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}
