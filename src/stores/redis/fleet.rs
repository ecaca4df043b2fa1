//! Everything that answers the commands of one deployment, whatever that consists of.

use super::cluster::{Cluster, may_read_a_replica, names};
use super::link::{Departure, Link};
use super::pool::{LaneStats, Pool, Sizes};
use super::replicas::Replicas;
use crate::error::Error;
use crate::redis_request::Batch;
use tokio::time::Instant;

/// One primary with its replicas, or a cluster of them.
pub enum Fleet {
    One { primary: Pool, replicas: Box<Replicas> },
    Cluster(Cluster),
}

impl Fleet {
    /// Sends a batch. Each of its requests is answered: by a server, or with an error.
    pub fn send(&self, batch: Batch, departure: Departure) {
        match self {
            Self::One { primary, .. } => {
                if let Some(batch) = self.send_reads(batch, departure) {
                    primary.send(batch, departure);
                }
            }
            Self::Cluster(cluster) => cluster.send(batch, departure),
        }
    }

    /// Sends what replicas may answer to them, and gives back the rest, if there is any.
    pub fn send_reads(&self, batch: Batch, departure: Departure) -> Option<Batch> {
        let Self::One { replicas, .. } = self else { return Some(batch) };
        if !batch.requests.iter().any(|request| request.by_replica) {
            return Some(batch);
        }
        let (mut reads, mut rest) = (Batch::default(), Batch::default());
        let mut bytes = batch.bytes.freeze();
        for request in batch.requests {
            let piece = bytes.split_to(request.length);
            let read = request.by_replica && names(&piece).all(|name| may_read_a_replica(&name));
            if read { reads.push(&piece, request) } else { rest.push(&piece, request) }
        }
        if !reads.requests.is_empty() {
            replicas.send(reads, departure);
        }
        Some(rest).filter(|rest| !rest.requests.is_empty())
    }

    /// A lane that everything can be sent on, if there is such a one.
    pub fn up(&self) -> Option<Link> {
        match self {
            Self::One { primary, .. } => primary.up(),
            Self::Cluster(_) => None,
        }
    }

    /// Lets it have these sizes, if they are larger than its own.
    pub fn enlarge(&self, sizes: Sizes) {
        match self {
            Self::One { primary, .. } => primary.enlarge(sizes),
            Self::Cluster(cluster) => cluster.enlarge(sizes),
        }
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> LaneStats {
        match self {
            Self::One { primary, replicas } => primary.stats() + replicas.stats(),
            Self::Cluster(cluster) => cluster.stats(),
        }
    }

    /// Which life of its servers this is: another number when counts in them may have been lost.
    pub fn life(&self) -> u64 {
        match self {
            Self::One { primary, .. } => primary.life(),
            Self::Cluster(cluster) => cluster.life(),
        }
    }

    /// Closes lanes that were not needed for a while.
    pub fn tend(&self, now: Instant) {
        match self {
            Self::One { primary, replicas } => {
                primary.tend(now);
                replicas.tend(now);
            }
            Self::Cluster(cluster) => cluster.tend(now),
        }
    }

    /// Ends every lane; what is unanswered, and whatever is sent from now on, fails with `error`.
    pub fn close(&self, error: &Error) {
        match self {
            Self::One { primary, replicas } => {
                replicas.close(error);
                primary.close(error);
            }
            Self::Cluster(cluster) => cluster.close(error),
        }
    }
}
