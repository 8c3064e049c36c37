//! Bytes to UTF-8, a chunk at a time: what is no text is refused, with the line on which it stands.

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

use crate::{lines::Lines, refusal::Refusal};

/// So many bytes tell what is known to be no text.
const START_BYTES: usize = 4;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Written {
    /// As its byte order mark says, else UTF-8.
    #[default]
    Detect,
    In(&'static Encoding),
}

impl Written {
    /// Reads the parameter `encoding`. Few, so that a page can list them; without a mark no other can be told from UTF-8 for sure.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "" | "auto" => Some(Self::Detect),
            "utf-8" => Some(Self::In(UTF_8)),
            "utf-16le" => Some(Self::In(UTF_16LE)),
            "utf-16be" => Some(Self::In(UTF_16BE)),
            "windows-1252" => Some(Self::In(WINDOWS_1252)),
            _ => None,
        }
    }
}

/// Decodes one file.
pub(crate) struct Text {
    decoder: Decoder,
    /// The first bytes.
    start: Vec<u8>,
    lines: Lines,
    decoded: String,
}

impl Text {
    pub(crate) fn new(written: Written) -> Self {
        let decoder = match written {
            Written::Detect => UTF_8.new_decoder(),
            Written::In(encoding) => encoding.new_decoder_with_bom_removal(),
        };
        Self { decoder, start: Vec::with_capacity(START_BYTES), lines: Lines::default(), decoded: String::new() }
    }

    /// Name of the encoding, known from the first chunk on.
    pub(crate) fn encoding(&self) -> &'static str {
        self.decoder.encoding().name()
    }

    /// The text of a chunk. A character that is cut at its end comes with the next one; with `last` it is an error.
    pub(crate) fn decode(&mut self, chunk: &[u8], last: bool) -> Result<&str, Refusal> {
        if self.start.len() < START_BYTES {
            self.start.extend(chunk.iter().take(START_BYTES - self.start.len()));
            refuse_known_formats(&self.start)?;
        }
        self.decoded.clear();
        let room = self.decoder.max_utf8_buffer_length_without_replacement(chunk.len());
        self.decoded.reserve(room.expect("a chunk is far smaller than memory"));
        let (result, _) = self.decoder.decode_to_string_without_replacement(chunk, &mut self.decoded, last);
        let nul = self.decoded.find('\0');
        let good = nul.map_or(self.decoded.as_str(), |at| &self.decoded[..at]);
        self.lines.pass(good.as_bytes());
        match (nul, result) {
            (Some(_), _) => {
                let why = "holds a NUL byte; the file is no text, or in another encoding (UTF-16 without its mark?)";
                Err(Refusal::at(self.lines.ended + 1, "not-text", why))
            }
            (None, DecoderResult::Malformed(..)) => {
                let name = self.encoding();
                let why = format!(
                    "is not valid {name}; choose the encoding in which the file was saved, or save it as UTF-8"
                );
                Err(Refusal::at(self.lines.ended + 1, "invalid-encoding", why))
            }
            (None, _) => Ok(&self.decoded),
        }
    }
}

/// What people rename to `.csv`; its bytes would be refused anyhow, but with words that help nobody.
fn refuse_known_formats(start: &[u8]) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::of_file("not-text", format!("this is {what}; save or export it as CSV")));
    match start {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => refuse("a zip archive or an Excel workbook (.xlsx)"),
        [0x1f, 0x8b, ..] => refuse("a gzip file"),
        [0xd0, 0xcf, 0x11, 0xe0, ..] => refuse("an old Excel workbook (.xls)"),
        [b'%', b'P', b'D', b'F', ..] => refuse("a PDF"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of it, given in chunks of this size.
    fn decode(written: Written, bytes: &[u8], chunk: usize) -> Result<String, Refusal> {
        let (mut text, mut all) = (Text::new(written), String::new());
        for chunk in bytes.chunks(chunk) {
            all.push_str(text.decode(chunk, false)?);
        }
        all.push_str(text.decode(&[], true)?);
        Ok(all)
    }

    #[test]
    fn encodings_are_read_whole_and_in_pieces() {
        let utf_16 = |to: fn(u16) -> [u8; 2]| "\u{feff}é\n😀".encode_utf16().flat_map(to).collect::<Vec<_>>();
        for chunk in [1, 2, 3, 100] {
            for (name, bytes) in [
                ("", "é\n😀".as_bytes().to_vec()),
                ("auto", "\u{feff}é\n😀".as_bytes().to_vec()),
                ("auto", utf_16(u16::to_le_bytes)),
                ("auto", utf_16(u16::to_be_bytes)),
                ("utf-16le", utf_16(u16::to_le_bytes)),
                ("UTF-8", "\u{feff}é\n😀".as_bytes().to_vec()),
            ] {
                let written = Written::parse(name).unwrap();
                assert_eq!(decode(written, &bytes, chunk).as_deref(), Ok("é\n😀"), "{name} {chunk}");
            }
            let windows = Written::parse("windows-1252").unwrap();
            assert_eq!(decode(windows, b"Zo\xeb \x80", chunk).as_deref(), Ok("Zoë €"));
        }
        assert_eq!(Written::parse("klingon"), None);
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_line() {
        for (bytes, code, line) in [
            (&b"a\nb\xff\n"[..], "invalid-encoding", Some(2)),
            (b"a\nb\nZo\xc3", "invalid-encoding", Some(3)),
            (b"a\rb\r\nZo\xeb\r", "invalid-encoding", Some(3)),
            (b"a\nb\0c", "not-text", Some(2)),
            (b"PK\x03\x04....", "not-text", None),
            (b"\x1f\x8b\x08", "not-text", None),
        ] {
            for chunk in [1, 5, 100] {
                let refused = decode(Written::Detect, bytes, chunk).unwrap_err();
                assert_eq!((refused.code, refused.line), (code, line), "{bytes:?} {refused:?}");
            }
        }
    }
}
