//! Frames of SPDY/3.1: parsing and writing, without I/O and without state.
//!
//! A data frame is cut up by whoever reads it, since it may be long; a control frame is parsed as a whole and may not be
//! longer than [`MAX_CONTROL`]. Header blocks stay compressed here: see [`super::header`].

use thiserror::Error;

/// Bytes in front of every frame.
pub const HEAD: usize = 8;
/// Protocol version in control frames: SPDY/3.1 writes 3.
pub const VERSION: u16 = 3;
/// Longest control frame accepted, in bytes without its head. The headers of Kubernetes' streams take some dozens.
pub const MAX_CONTROL: usize = 16 * 1024;
/// Most entries of a SETTINGS frame; the specification knows eight.
pub const MAX_SETTINGS: usize = 64;
/// Largest flow control window: 2^31 - 1 bytes.
pub const MAX_WINDOW: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SETTING_INITIAL_WINDOW: u32 = 7;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// A frame that makes no sense.
    ProtocolError = 1,
    /// A frame for a stream that does not exist.
    InvalidStream = 2,
    /// The stream is not wanted.
    RefusedStream = 3,
    /// The stream is not needed any more.
    Cancel = 5,
    /// Something went wrong here.
    InternalError = 6,
}

/// What is wrong with a frame. Each ends the connection: what follows cannot be trusted to begin where it seems to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Another protocol, or another version of it.
    #[error("a control frame is of version {0}, not {VERSION}")]
    Version(u16),
    /// A control frame that is too long.
    #[error("a control frame of {0} bytes is longer than {MAX_CONTROL}")]
    TooLong(u32),
    /// A control frame whose length does not go with its kind.
    #[error("a control frame of kind {kind} has {length} bytes")]
    Length {
        /// Its kind.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A frame that has to name a stream and does not.
    #[error("a frame of kind {0} names no stream")]
    NoStream(u16),
    /// Too many settings.
    #[error("a SETTINGS frame of {0} entries is longer than {MAX_SETTINGS}")]
    TooManySettings(u32),
    /// A value outside of what the specification allows.
    #[error("a frame of kind {0} has an impossible value")]
    Value(u16),
}

/// The first [`HEAD`] bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `length` bytes of data follow.
    Data {
        /// Never 0.
        stream: u32,
        /// Nothing comes after it.
        fin: bool,
        /// Up to 2^24 - 1.
        length: u32,
    },
    /// `length` bytes of a control frame follow; at most [`MAX_CONTROL`].
    Control {
        /// Kind of control frame.
        kind: u16,
        /// Flags, whose meaning depends on the kind.
        flags: u8,
        /// Length in bytes.
        length: u32,
    },
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// It cannot be one of SPDY/3.1, or announces too much.
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, x, y, z]);
        if first & 0x8000_0000 == 0 {
            return match first {
                0 => Err(FrameError::NoStream(0)),
                stream => Ok(Self::Data {
                    stream,
                    fin: flags & FLAG_FIN != 0,
                    length,
                }),
            };
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length as usize > MAX_CONTROL {
            return Err(FrameError::TooLong(length));
        }
        Ok(Self::Control {
            kind: first as u16,
            flags,
            length,
        })
    }

    /// Bytes that follow.
    pub fn length(self) -> usize {
        match self {
            Self::Data { length, .. } | Self::Control { length, .. } => length as usize,
        }
    }
}

/// A control frame. Header blocks are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control<'a> {
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// The peer wants nothing on it.
        unidirectional: bool,
        /// Header block.
        block: &'a [u8],
    },
    /// The peer accepts a stream.
    SynReply {
        /// Its number.
        stream: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// Header block.
        block: &'a [u8],
    },
    /// The peer ends a stream at once, both ways.
    RstStream {
        /// Its number.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// Settings; only the one that matters here.
    Settings {
        /// Window of new and existing streams.
        initial_window: Option<u32>,
    },
    /// To be sent back if the peer chose the number.
    Ping(u32),
    /// The peer opens and takes no further streams.
    GoAway {
        /// Last stream it took.
        last: u32,
    },
    /// More headers.
    Headers {
        /// Stream.
        stream: u32,
        /// The peer will send nothing more on it.
        fin: bool,
        /// Header block.
        block: &'a [u8],
    },
    /// The peer can take more.
    WindowUpdate {
        /// Stream; 0 is the connection as a whole.
        stream: u32,
        /// So many bytes more.
        delta: u32,
    },
    /// Something to be skipped.
    Unknown(u16),
}

impl<'a> Control<'a> {
    /// Reads a control frame behind its head.
    ///
    /// # Errors
    /// What follows it cannot be trusted either.
    pub fn parse(kind: u16, flags: u8, body: &'a [u8]) -> Result<Self, FrameError> {
        let fin = flags & FLAG_FIN != 0;
        let reader = Body { kind, body };
        match kind {
            SYN_STREAM => Ok(Self::SynStream {
                stream: reader.stream()?,
                fin,
                unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                block: reader.block(10)?,
            }),
            SYN_REPLY => Ok(Self::SynReply {
                stream: reader.stream()?,
                fin,
                block: reader.block(4)?,
            }),
            HEADERS => Ok(Self::Headers {
                stream: reader.stream()?,
                fin,
                block: reader.block(4)?,
            }),
            RST_STREAM => {
                let (stream, status) = (reader.exactly(8)?.stream()?, reader.word(4)?);
                if status == 0 {
                    return Err(FrameError::Value(kind));
                }
                Ok(Self::RstStream { stream, status })
            }
            SETTINGS => reader.settings(),
            PING => match reader.exactly(4)?.word(0)? {
                0 => Err(FrameError::Value(kind)),
                number => Ok(Self::Ping(number)),
            },
            GOAWAY => Ok(Self::GoAway {
                last: reader.exactly(8)?.word(0)? & MAX_WINDOW,
            }),
            WINDOW_UPDATE => {
                let stream = reader.exactly(8)?.word(0)? & MAX_WINDOW;
                match reader.word(4)? & MAX_WINDOW {
                    0 => Err(FrameError::Value(kind)),
                    delta => Ok(Self::WindowUpdate { stream, delta }),
                }
            }
            other => Ok(Self::Unknown(other)),
        }
    }
}

/// What follows the head of a control frame.
#[derive(Clone, Copy)]
struct Body<'a> {
    kind: u16,
    body: &'a [u8],
}

impl<'a> Body<'a> {
    fn wrong_length(self) -> FrameError {
        FrameError::Length {
            kind: self.kind,
            length: self.body.len(),
        }
    }

    fn exactly(self, length: usize) -> Result<Self, FrameError> {
        if self.body.len() == length {
            Ok(self)
        } else {
            Err(self.wrong_length())
        }
    }

    fn word(self, at: usize) -> Result<u32, FrameError> {
        let bytes = self.body.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| self.wrong_length())
    }

    fn stream(self) -> Result<u32, FrameError> {
        match self.word(0)? & MAX_WINDOW {
            0 => Err(FrameError::NoStream(self.kind)),
            stream => Ok(stream),
        }
    }

    fn block(self, at: usize) -> Result<&'a [u8], FrameError> {
        self.body.get(at..).ok_or_else(|| self.wrong_length())
    }

    fn settings(self) -> Result<Control<'a>, FrameError> {
        let count = self.word(0)?;
        if count as usize > MAX_SETTINGS {
            return Err(FrameError::TooManySettings(count));
        }
        self.exactly(4 + 8 * count as usize)?;
        let mut initial_window = None;
        for entry in 0..count as usize {
            let (id, value) = (self.word(4 + 8 * entry)? & 0x00ff_ffff, self.word(8 + 8 * entry)?);
            if id == SETTING_INITIAL_WINDOW {
                if value > MAX_WINDOW {
                    return Err(FrameError::Value(self.kind));
                }
                initial_window = Some(value);
            }
        }
        Ok(Control::Settings { initial_window })
    }
}

/// A whole frame, as [`parse`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Data of a stream.
    Data {
        /// Stream.
        stream: u32,
        /// Nothing comes after it.
        fin: bool,
        /// The data.
        data: &'a [u8],
    },
    /// A control frame.
    Control(Control<'a>),
}

/// Finds the first frame of `bytes` and tells how long it is; `None` if more bytes are needed.
///
/// # Errors
/// There is no frame and never will be one.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let head = Head::parse(*head)?;
    let Some(body) = rest.get(..head.length()) else {
        return Ok(None);
    };
    let frame = match head {
        Head::Data { stream, fin, .. } => Frame::Data {
            stream,
            fin,
            data: body,
        },
        Head::Control { kind, flags, .. } => Frame::Control(Control::parse(kind, flags, body)?),
    };
    Ok(Some((frame, HEAD + body.len())))
}

impl Control<'_> {
    /// The frame's bytes. A block longer than a frame can be is cut off; see [`MAX_CONTROL`].
    pub fn encode(&self) -> Vec<u8> {
        let (kind, flags, mut body): (u16, u8, Vec<u8>) = match *self {
            Self::SynStream {
                stream,
                fin,
                unidirectional,
                block,
            } => {
                let flags = (u8::from(fin) * FLAG_FIN) | (u8::from(unidirectional) * FLAG_UNIDIRECTIONAL);
                let mut body = words(&[stream, 0]);
                body.extend_from_slice(&[0, 0]);
                body.extend_from_slice(block);
                (SYN_STREAM, flags, body)
            }
            Self::SynReply { stream, fin, block } => {
                (SYN_REPLY, u8::from(fin) * FLAG_FIN, with_block(stream, block))
            }
            Self::Headers { stream, fin, block } => {
                (HEADERS, u8::from(fin) * FLAG_FIN, with_block(stream, block))
            }
            Self::RstStream { stream, status } => (RST_STREAM, 0, words(&[stream, status])),
            Self::Settings { initial_window } => match initial_window {
                Some(window) => (SETTINGS, 0, words(&[1, SETTING_INITIAL_WINDOW, window])),
                None => (SETTINGS, 0, words(&[0])),
            },
            Self::Ping(number) => (PING, 0, words(&[number])),
            Self::GoAway { last } => (GOAWAY, 0, words(&[last, 0])),
            Self::WindowUpdate { stream, delta } => (WINDOW_UPDATE, 0, words(&[stream, delta])),
            Self::Unknown(kind) => (kind, 0, Vec::new()),
        };
        body.truncate(MAX_CONTROL);
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
        bytes.append(&mut body);
        bytes
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn with_block(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut body = words(&[stream]);
    body.extend_from_slice(block);
    body
}

/// The bytes in front of `length` bytes of data, which must be less than 2^24.
pub fn data_head(stream: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (stream & MAX_WINDOW).to_be_bytes();
    let [_, x, y, z] = (length as u32).to_be_bytes();
    [a, b, c, d, u8::from(fin) * FLAG_FIN, x, y, z]
}
