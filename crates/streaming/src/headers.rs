//! Header blocks: one zlib stream per direction and connection, with the protocol's dictionary.

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use super::frame::SpdyError;

/// Longest block after decompression.
const BLOCK_MAX: usize = 256 * 1024;

/// Reads the peer's header blocks, in the order of their arrival.
pub(crate) struct Decoder {
    inflate: Decompress,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// Names (lower case) and values of one block.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        parse(&self.inflate_block(block)?)
    }

    fn inflate_block(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let bad = SpdyError::Protocol("header compression");
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            match self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(bad),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| SpdyError::Protocol("header dictionary"))?;
                }
                Err(_) => return Err(bad),
            }
            let consumed = (self.inflate.total_in() - before_in) as usize;
            rest = &rest[consumed..];
            if plain.len() > BLOCK_MAX {
                return Err(SpdyError::Protocol("headers too long"));
            }
            let full = plain.len() == plain.capacity();
            if full {
                plain.reserve(4096);
            } else if rest.is_empty() || (consumed == 0 && plain.len() == before_out) {
                return Ok(plain);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
    let short = || SpdyError::Protocol("header block too short");
    let number = |block: &mut &[u8]| -> Result<usize, SpdyError> {
        let (bytes, rest) = block.split_first_chunk::<4>().ok_or_else(short)?;
        *block = rest;
        Ok(u32::from_be_bytes(*bytes) as usize)
    };
    let count = number(&mut block)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || -> Result<String, SpdyError> {
            let length = number(&mut block)?;
            let (bytes, rest) = block.split_at_checked(length).ok_or_else(short)?;
            block = rest;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let (name, value) = (text()?.to_ascii_lowercase(), text()?);
        headers.push((name, value));
    }
    Ok(headers)
}

/// Writes header blocks without compressing them: a zlib stream may consist of stored blocks, and needs no dictionary then.
#[derive(Default)]
pub(crate) struct Encoder {
    started: bool,
}

impl Encoder {
    /// A block without headers, which is all that a server has to say.
    pub(crate) fn empty(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.started {
            self.started = true;
            // Deflate with a 32 KiB window, no dictionary, and the check bits that make it a multiple of 31.
            bytes.extend_from_slice(&[0x78, 0x01]);
        }
        // A stored block that is not the last: its length, the complement of that, the number of headers. Then an empty one:
        // the mark of a flush, without which a reader waits for the next block before it gives out this one.
        bytes.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    /// What a client does: one compressor for all blocks, flushed after each.
    fn encode(compress: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        compress.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("compress");
        block
    }

    #[test]
    fn blocks_of_one_connection_share_their_compression() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).expect("dictionary");
        let mut decoder = Decoder::new();
        for port in 80..90 {
            let port = port.to_string();
            let sent = [("streamtype", "data"), ("port", &port), ("requestid", "0")];
            let block = encode(&mut compress, &sent);
            let found = decoder.decode(&block).expect("block");
            let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, sent);
        }
        let long = "x".repeat(100_000);
        let block = encode(&mut Compress::new(Compression::none(), true), &[]);
        assert!(!block.is_empty());
        let mut plain = Compress::new(Compression::fast(), true);
        let mut block = Vec::with_capacity(200_000);
        let mut bytes = 1_u32.to_be_bytes().to_vec();
        for text in ["a", &long] {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        plain.compress_vec(&bytes, &mut block, FlushCompress::Sync).expect("compress");
        assert_eq!(Decoder::new().decode(&block).expect("block"), [("a".to_owned(), long)]);
    }

    #[test]
    fn our_blocks_are_valid_zlib() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new());
        for _ in 0..3 {
            assert_eq!(decoder.decode(&encoder.empty()).expect("block"), []);
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for block in [&b"nonsense"[..], b"\x78\x01\0\x04\0\xfb\xff\0\0\0\x01"] {
            assert!(Decoder::new().decode(block).is_err(), "{block:?}");
        }
    }
}
