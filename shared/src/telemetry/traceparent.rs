//! The header `traceparent` of requests and records (W3C Trace Context).

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// The header's value for a span that others shall continue.
pub fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Reads the span that a header names: `<version>-<trace id>-<span id>-<flags>`, in lower-case hexadecimal digits. Of a later
/// version than 00 it takes what both have. `None` for anything else, and for ids that are all zeros.
pub fn span_context(traceparent: &[u8]) -> Option<SpanContext> {
    let mut fields = std::str::from_utf8(traceparent).ok()?.split('-');
    let mut digits = |count: usize| fields.next().filter(|field| is_hexadecimal(field, count));
    let (version, trace, span, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_traceparent_is_read_or_names_nothing() {
        let read = |text: &str| span_context(text.as_bytes());
        let valid = read(&format!("00-{TRACE}-{SPAN}-01")).expect("valid");
        assert_eq!((valid.trace_id().to_string(), valid.span_id().to_string()), (TRACE.to_owned(), SPAN.to_owned()));
        assert!(valid.is_sampled() && valid.is_remote());
        assert_eq!(traceparent(&valid), format!("00-{TRACE}-{SPAN}-01"));
        assert!(!read(&format!("00-{TRACE}-{SPAN}-00")).expect("valid").is_sampled());
        assert_eq!(read(&format!("01-{TRACE}-{SPAN}-01-later")), Some(valid), "what a later version adds is left out");
        for text in [
            "",
            "00",
            &format!("00-{TRACE}-{SPAN}-01-more"),
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-xyz-{SPAN}-01"),
            &format!("00-{TRACE}--01"),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            &format!("00-{TRACE}-{SPAN}-1"),
            &format!("00-{TRACE}-{SPAN}"),
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(span_context(b"\xff\xfe"), None);
    }
}
