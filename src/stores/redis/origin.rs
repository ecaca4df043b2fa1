//! Where connections are made to, and how: one origin for every connection of a pool.

use super::cluster::Topology;
use super::connection::{Connection, Introduction};
use super::pool::Pool;
use super::replication::replica_addresses;
use super::sentinel::Sentinels;
use super::tls::Connector;
use crate::config::REDIS_DEADLINE;
use crate::error::{Error, Result};
use crate::random;
use crate::redis_url::{Address, Login};
use std::sync::Arc;
use tokio::time::timeout;

/// How connections to servers of one deployment are made, wherever these are.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub login: Login,
    pub database: u32,
    /// `None` for connections that are not encrypted.
    pub tls: Option<Arc<Connector>>,
}

/// What the server at the other end has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whatever it is.
    Any,
    Primary,
    /// A replica that serves reads, also one of a cluster.
    Replica,
    Sentinel,
}

/// Where a server is, and by which failover it came to be the one that is talked to. These have numbers where somebody counts
/// them, else it is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub address: Address,
    pub term: u64,
}

/// Where the server is.
#[derive(Clone)]
enum Where {
    At(Address, Role),
    Primary(Arc<Sentinels>),
    /// Any primary of a cluster.
    Member(Arc<Topology>),
}

/// A server to connect to, wherever it is at the time.
#[derive(Clone)]
pub struct Origin {
    place: Where,
    access: Access,
    /// Names the server in errors and in the log, and so holds no secret.
    server: Arc<str>,
}

/// What a connection is to be, beside where it goes.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// What it calls itself.
    pub name: &'a str,
    /// Requests that may be unanswered.
    pub limit: usize,
    /// Writes to keys that begin like this are to be pushed.
    pub pushes: Option<&'a str>,
}

impl Origin {
    /// One server at one place.
    pub fn at(address: Address, role: Role, access: Access, server: Arc<str>) -> Self {
        Self { place: Where::At(address, role), access, server }
    }

    /// Whichever server is the primary.
    pub fn primary(sentinels: Arc<Sentinels>, access: Access, server: Arc<str>) -> Self {
        Self { place: Where::Primary(sentinels), access, server }
    }

    /// Whichever primary of a cluster answers.
    pub fn member(topology: Arc<Topology>) -> Self {
        let (access, server) = (topology.access().clone(), topology.server().clone());
        Self { place: Where::Member(topology), access, server }
    }

    /// The cluster that it is a member of.
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        match &self.place {
            Where::Member(topology) => Some(topology),
            Where::At(..) | Where::Primary(_) => None,
        }
    }

    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// Finds the server, connects and introduces itself. Says where the server was, too.
    ///
    /// # Errors
    /// [`Error::Connection`] with the cause.
    pub async fn open(&self, wanted: Wanted<'_>) -> Result<(Connection, Seat)> {
        let (seat, role) = match &self.place {
            Where::At(address, role) => (Seat { address: address.clone(), term: 0 }, *role),
            Where::Primary(sentinels) => (sentinels.primary().await.map_err(|error| self.lost(error))?, Role::Primary),
            Where::Member(topology) => return self.open_member(topology, wanted).await,
        };
        self.open_at(seat, role, wanted).await
    }

    async fn open_at(&self, seat: Seat, role: Role, wanted: Wanted<'_>) -> Result<(Connection, Seat)> {
        let introduction = Introduction { seat: &seat, access: &self.access, server: &self.server, role, wanted };
        // A primary that has frozen may be succeeded while we wait for it.
        let connection = tokio::select! {
            connection = Connection::open(introduction) => connection?,
            moved = self.moved(&seat) => return Err(moved),
        };
        Ok((connection, seat))
    }

    /// The first primary that takes a connection, from a random one on.
    async fn open_member(&self, topology: &Arc<Topology>, wanted: Wanted<'_>) -> Result<(Connection, Seat)> {
        let map = topology.known().await?;
        let mut primaries: Vec<_> = map.primaries().cloned().collect();
        let first = usize::try_from(random::number()).unwrap_or_default() % primaries.len().max(1);
        primaries.rotate_left(first);
        let mut refused = self.lost("no primary is known");
        for address in primaries {
            match self.open_at(Seat { address, term: 0 }, Role::Primary, wanted).await {
                Ok(opened) => return Ok(opened),
                Err(error) => refused = error,
            }
        }
        topology.doubt();
        Err(refused)
    }

    /// The one server of a cluster that serves a slot.
    pub fn at_member(&self, address: &Address) -> Self {
        Self { place: Where::At(address.clone(), Role::Primary), ..self.clone() }
    }

    /// How it is connected to.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Where replicas of this server are.
    pub async fn replicas(&self, primary: &Pool) -> Result<Vec<Address>> {
        if let Where::Primary(sentinels) = &self.place {
            return sentinels.replicas().await.map_err(|error| self.lost(error));
        }
        let link = primary.up().ok_or_else(|| self.lost("it is not connected"))?;
        let info = timeout(REDIS_DEADLINE, link.send(&["INFO", "replication"])).await;
        let late = |_| Error::Timeout { server: self.server.clone(), after: REDIS_DEADLINE };
        Ok(replica_addresses(&info.map_err(late)??))
    }

    /// Resolves, with the reason, when the server there is not the one to talk to any more.
    pub async fn moved(&self, seat: &Seat) -> Error {
        match &self.place {
            Where::At(..) => std::future::pending().await,
            Where::Member(topology) => {
                topology.without(&seat.address).await;
                self.lost(format!("{} is no part of it any more", seat.address))
            }
            Where::Primary(sentinels) => {
                let now = sentinels.moved_from(seat).await.address;
                if now == seat.address {
                    return self.lost("the sentinels say that there was another primary meanwhile");
                }
                self.lost(format!("the sentinels say that {now} is the primary now, not {}", seat.address))
            }
        }
    }

    fn lost(&self, reason: impl std::fmt::Display) -> Error {
        Error::Connection { server: self.server.clone(), reason: reason.to_string() }
    }
}
