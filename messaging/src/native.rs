//! Requests of librdkafka's Admin API for which `rdkafka` has no call (rdkafka.h, Admin API), and what frees their parts.

use std::{
    ptr::{self, NonNull},
    time::Duration,
};

use rdkafka::bindings::{
    rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
    rd_kafka_AdminOptions_t, rd_kafka_admin_op_t, rd_kafka_event_destroy, rd_kafka_event_t, rd_kafka_queue_destroy,
    rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_resp_err_t, rd_kafka_t,
};

/// How long the brokers may take for the answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How much longer librdkafka may take to tell that they did not.
const GRACE: Duration = Duration::from_secs(1);

/// Frees what librdkafka has handed out.
pub(crate) struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    pub(crate) fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, rd_kafka_resp_err_t> {
        let pointer = NonNull::new(pointer).ok_or(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL)?;
        Ok(Self { pointer, destroy })
    }

    pub(crate) fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the constructor that `destroy` belongs to, and is freed here only.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// Sends one request and waits for its answer; blocks for up to six seconds.
///
/// # Safety
/// `client` is the handle of a client that outlives the call; `send` sends one request of kind `operation`.
pub(crate) unsafe fn answer(
    client: *mut rd_kafka_t,
    operation: rd_kafka_admin_op_t,
    send: impl FnOnce(*const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
) -> Result<Owned<rd_kafka_event_t>, rd_kafka_resp_err_t> {
    // SAFETY: each object is freed by its own destructor, in the reverse order of these lines, and the request keeps what it
    // needs: options are copied, and a queue that is gone discards the answer.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(client), rd_kafka_queue_destroy)?;
        let options = Owned::new(rd_kafka_AdminOptions_new(client, operation), rd_kafka_AdminOptions_destroy)?;
        let refused = rd_kafka_AdminOptions_set_request_timeout(options.get(), millis(ANSWER_MAX), ptr::null_mut(), 0);
        no_error(refused)?;
        send(options.get(), queue.get());
        let event = rd_kafka_queue_poll(queue.get(), millis(ANSWER_MAX + GRACE));
        let event = NonNull::new(event).ok_or(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT)?;
        Owned::new(event.as_ptr(), rd_kafka_event_destroy)
    }
}

pub(crate) fn no_error(code: rd_kafka_resp_err_t) -> Result<(), rd_kafka_resp_err_t> {
    match code {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(error),
    }
}

fn millis(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).expect("a limit of seconds")
}
