//! What all requests share.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use shared::{
    admin::Condition,
    import::{ChannelError, ChannelId, ChannelSecret},
};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, hub::Hub, rate::Rate};

/// Built once in [`crate::serve`], held by every request.
pub(crate) struct App {
    pub(crate) hub: Hub,
    secret: ChannelSecret,
    pub(crate) origins: BTreeSet<String>,
    pub(crate) lifetime: Duration,
    pub(crate) behind_max: Duration,
    pub(crate) send_max: Duration,
    pub(crate) ping_interval: Duration,
    making: Mutex<Rate>,
    pub(crate) caught_up: Condition,
    /// Cancelled when streams shall end.
    pub(crate) ending: CancellationToken,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        secret: ChannelSecret,
        hub: Hub,
        caught_up: Condition,
        ending: CancellationToken,
    ) -> Self {
        Self {
            hub,
            secret,
            origins: config.origins.clone(),
            lifetime: config.channel_lifetime,
            behind_max: config.behind_max,
            send_max: config.send_max,
            ping_interval: config.ping_interval,
            making: Mutex::new(Rate::new(config.channels_per_second_max, Instant::now())),
            caught_up,
            ending,
        }
    }

    /// Whether one more channel may be made now.
    pub(crate) fn may_make_channel(&self) -> bool {
        self.making.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now())
    }

    /// A new channel and when it ends, in seconds since 1970.
    pub(crate) fn make_channel(&self) -> (ChannelId, u64) {
        let expires_unix_s = now_unix_s() + self.lifetime.as_secs();
        (self.secret.make(rand::random(), expires_unix_s), expires_unix_s)
    }

    pub(crate) fn channel(&self, text: &str) -> Result<ChannelId, ChannelError> {
        self.secret.check(text, now_unix_s())
    }
}

pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
