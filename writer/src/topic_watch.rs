//! Whether the topic is still the one that a claim belongs to, asked for each batch.
//!
//! Duty: what [`TopicWatch::since`] gives was asked for after the moment named. Ids do not come back, so records that had been
//! polled by then are of the topic with that id, if it is still the same, or of an older one. The source asks when it sends a
//! batch and the lane reads the answer when it has decoded it, so a backlog does not wait; demands that come while the brokers
//! are asked share the next question. While they do not answer, or the topic is gone, batches wait.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    assignment::TopicConsumer,
    topic_id::{self, TopicId},
};

/// Pause before the brokers are asked again when they did not tell.
const RETRY: Duration = Duration::from_millis(200);

/// An answer of the brokers.
#[derive(Debug, Clone)]
struct Answer {
    asked_at: Instant,
    topic_id: Option<TopicId>,
}

/// Asks on demand; each who has one may demand and read.
#[derive(Debug, Clone)]
pub struct TopicWatch {
    demands: mpsc::Sender<Instant>,
    newest: watch::Receiver<Option<Answer>>,
}

impl TopicWatch {
    /// Starts the thread that asks; it ends with the last holder of the watch.
    pub fn start(consumer: Arc<TopicConsumer>, topic: Arc<str>) -> std::io::Result<Self> {
        let ((demands, demanded), (answers, newest)) = (mpsc::channel(), watch::channel(None));
        let ask = move || {
            while let Ok(moment) = demanded.recv() {
                answer(&consumer, &topic, moment, &demanded, &answers);
            }
        };
        std::thread::Builder::new().name("topic".to_owned()).spawn(ask)?;
        Ok(Self { demands, newest })
    }

    /// Has the brokers asked, unless they were since this moment.
    pub fn demand(&self, moment: Instant) {
        // Without the thread the process is ending.
        let _ = self.demands.send(moment);
    }

    /// The topic's id, as the brokers told it when asked after this moment, which somebody has demanded; waits for it.
    pub async fn since(&mut self, moment: Instant) -> Option<TopicId> {
        let is_new = |answer: &Option<Answer>| answer.as_ref().is_some_and(|answer| answer.asked_at >= moment);
        let answer = self.newest.wait_for(is_new).await.map(|answer| answer.clone());
        // Without the thread, which lives as long as this watch, nothing more may be stored.
        let Ok(Some(answer)) = answer else { return std::future::pending().await };
        answer.topic_id
    }
}

/// Asks until the brokers tell, or nobody is left to hear it.
fn answer(
    consumer: &TopicConsumer,
    topic: &str,
    moment: Instant,
    demanded: &mpsc::Receiver<Instant>,
    answers: &watch::Sender<Option<Answer>>,
) {
    if answers.borrow().as_ref().is_some_and(|answer| answer.asked_at >= moment) {
        return;
    }
    loop {
        let asked_at = Instant::now();
        match topic_id::fetch(consumer, topic) {
            Ok(topic_id) => {
                answers.send_replace(Some(Answer { asked_at, topic_id }));
                return;
            }
            Err(error) => {
                tracing::debug!(topic, error = %error, "the brokers do not tell the topic's id; batches wait");
                // A further demand is met by the answer to this one.
                if let Err(RecvTimeoutError::Disconnected) = demanded.recv_timeout(RETRY) {
                    return;
                }
            }
        }
    }
}
