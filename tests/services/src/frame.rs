//! The `im20` frame, as the IM server and its client see it.
//!
//! Written on its own, without the gateway's decoder: the two check each other.
//! Start at [`Frame::encode`] and [`decode`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First byte of a frame.
pub const BEGIN: u8 = 0x09;
/// Last byte of a frame.
pub const END: u8 = 0x0A;
/// Bytes of a frame beside its body: both markers and the header.
pub const OVERHEAD: usize = 22;
/// Longest body the services take, in bytes.
pub const BODY_MAX: usize = 64 * 1024;

/// Numbers of the commands; `proto/README.md` describes them.
pub mod command {
    #![allow(missing_docs)]
    pub const HEARTBEAT: u16 = 0x0001;
    pub const HEARTBEAT_REPLY: u16 = 0x0002;
    pub const ERROR: u16 = 0x00FF;
    pub const LOGIN: u16 = 0x0101;
    pub const LOGIN_REPLY: u16 = 0x0102;
    pub const CONFIRM_LOGIN: u16 = 0x0130;
    pub const CONFIRM_LOGIN_REPLY: u16 = 0x0131;
    pub const SEND: u16 = 0x0301;
    pub const SEND_REPLY: u16 = 0x0302;
    pub const PUSH: u16 = 0x0310;
    pub const ACK: u16 = 0x0311;
    pub const ACK_REPLY: u16 = 0x0312;
    pub const HISTORY: u16 = 0x0320;
    pub const HISTORY_REPLY: u16 = 0x0321;
    pub const CONVERSATIONS: u16 = 0x0330;
    pub const CONVERSATIONS_REPLY: u16 = 0x0331;
}

/// One frame: the header's fields and the body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Reserved; zero.
    pub flag: u8,
    /// Version of the protocol; one.
    pub version: u8,
    /// How the body is encrypted; zero: it is not.
    pub crypt: u8,
    /// Kind of the client's terminal.
    pub terminal: u8,
    /// What the frame means.
    pub command: u16,
    /// Ties a reply to its request.
    pub sequence: u16,
    /// User who sends it.
    pub from: u32,
    /// User it is meant for.
    pub to: u32,
    /// The protobuf message.
    pub body: Bytes,
}

/// Why bytes are no frame. The connection they came on cannot go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte is not [`BEGIN`].
    #[error("frame starts with {0:#04x}, expected 0x09")]
    BadBegin(u8),
    /// The byte behind the body is not [`END`].
    #[error("frame ends with {0:#04x}, expected 0x0a")]
    BadEnd(u8),
    /// The body is longer than [`BODY_MAX`].
    #[error("body of {0} bytes is over the limit of 65536")]
    TooLong(u32),
}

impl Frame {
    /// A frame of protocol version 1 with `message` as its body.
    pub fn new(command: u16, sequence: u16, message: &impl prost::Message) -> Self {
        Frame { version: 1, command, sequence, body: message.encode_to_vec().into(), ..Frame::default() }
    }

    /// The same frame with the users set.
    pub fn between(self, from: u32, to: u32) -> Self {
        Frame { from, to, ..self }
    }

    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(OVERHEAD + self.body.len());
        out.put_u8(BEGIN);
        out.put_u8(self.flag);
        out.put_u8(self.version);
        out.put_u8(self.crypt);
        out.put_u8(self.terminal);
        out.put_u16(self.command);
        out.put_u16(self.sequence);
        out.put_u32(self.from);
        out.put_u32(self.to);
        out.put_u32(self.body.len() as u32);
        out.put_slice(&self.body);
        out.put_u8(END);
    }

    /// The frame's bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// Reads the body as the message that the command stands for.
    pub fn message<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.body.clone())
    }
}

/// Takes the first frame out of `bytes`, or leaves them as they are if it has
/// not all arrived.
pub fn decode(bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(&begin) = bytes.first() else { return Ok(None) };
    if begin != BEGIN {
        return Err(FrameError::BadBegin(begin));
    }
    if bytes.len() < OVERHEAD - 1 {
        return Ok(None);
    }
    let declared = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]);
    if declared as usize > BODY_MAX {
        return Err(FrameError::TooLong(declared));
    }
    let total = OVERHEAD + declared as usize;
    if bytes.len() < total {
        return Ok(None);
    }
    if bytes[total - 1] != END {
        return Err(FrameError::BadEnd(bytes[total - 1]));
    }
    let mut whole = bytes.split_to(total).freeze();
    whole.advance(1);
    Ok(Some(Frame {
        flag: whole.get_u8(),
        version: whole.get_u8(),
        crypt: whole.get_u8(),
        terminal: whole.get_u8(),
        command: whole.get_u16(),
        sequence: whole.get_u16(),
        from: whole.get_u32(),
        to: whole.get_u32(),
        body: {
            whole.advance(4);
            whole.slice(..declared as usize)
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Frame {
        Frame {
            flag: 0,
            version: 1,
            crypt: 0,
            terminal: 3,
            command: command::SEND,
            sequence: 65_535,
            from: 7,
            to: u32::MAX,
            body: Bytes::from_static(&[0x0A, 0x09, 0, 255]),
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = sample().to_bytes();
        let expected = [
            0x09, 0, 1, 0, 3, 0x03, 0x01, 0xFF, 0xFF, 0, 0, 0, 7, 255, 255, 255, 255, 0, 0, 0, 4, 0x0A, 0x09,
            0, 255, 0x0A,
        ];
        assert_eq!(&bytes[..], expected);
    }

    #[test]
    fn a_frame_survives_every_split() {
        let bytes = sample().to_bytes();
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            assert_eq!(decode(&mut buffer), Ok(None), "cut at {cut}");
            buffer.extend_from_slice(&bytes[cut..]);
            assert_eq!(decode(&mut buffer), Ok(Some(sample())), "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn bad_bytes_are_refused() {
        let good = sample().to_bytes();
        let change = |at: usize, value: u8| {
            let mut bytes = BytesMut::from(&good[..]);
            bytes[at] = value;
            decode(&mut bytes)
        };
        assert_eq!(change(0, 0x0A), Err(FrameError::BadBegin(0x0A)));
        assert_eq!(change(good.len() - 1, 0), Err(FrameError::BadEnd(0)));
        assert_eq!(change(17, 0xFF), Err(FrameError::TooLong(0xFF00_0004)));
        assert_eq!(change(18, 1), Err(FrameError::TooLong(0x0001_0004)));
    }
}
