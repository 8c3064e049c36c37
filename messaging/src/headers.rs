//! A message's headers as bytes. The client's own reader panics at a name that is not UTF-8, which anybody who may write to
//! the topic can give; that must not end the process.

use std::ffi::CStr;

use rdkafka::{
    bindings::{rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_headers},
    message::BorrowedMessage,
    types::RDKafkaRespErr,
};

/// Name and value of each header in their order; a null value is `None`.
pub fn of<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(&'m [u8], Option<&'m [u8]>)> {
    let mut headers: *mut rd_kafka_headers_t = std::ptr::null_mut();
    // SAFETY: the message is alive while it is borrowed; the headers that librdkafka gives out stay its own.
    let found = unsafe { rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    match found {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => (0..).map_while(|index| header(headers, index)).collect(),
        // The message has none.
        _ => Vec::new(),
    }
}

/// The lifetime is that of the message to which the headers belong.
fn header<'m>(headers: *mut rd_kafka_headers_t, index: usize) -> Option<(&'m [u8], Option<&'m [u8]>)> {
    let (mut name, mut value, mut value_bytes) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: the pointers are valid for writes; an index beyond the last header is an error, not undefined.
    let found = unsafe { rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut value_bytes) };
    if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return None;
    }
    // SAFETY: librdkafka ends names with NUL, and keeps name and value as long as the message.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    // SAFETY: as above; the length is the value's, and a value that is not null may be empty.
    let value = (!value.is_null()).then(|| unsafe { std::slice::from_raw_parts(value.cast::<u8>(), value_bytes) });
    Some((name, value))
}
