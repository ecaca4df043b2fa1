//! Pools to the servers of one deployment, one a server, made when they are needed.

use super::lane::Plan;
use super::origin::{Access, Origin, Role};
use super::pool::{Home, LaneStats, OnNewLife, Pool, Sizes};
use crate::error::Error;
use crate::redis_url::Address;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A replica that did not answer is not asked for this long.
const ASIDE: Duration = Duration::from_secs(1);

/// What is the same for all of them.
pub struct NodePlan {
    pub access: Access,
    /// What connections call themselves.
    pub name: String,
    /// Calls that may be unanswered on a connection.
    pub limit: usize,
    pub runtime: Handle,
    pub home: Weak<dyn Home>,
    pub on_new_life: Option<OnNewLife>,
}

/// The pools, by server and by what it is to be.
pub struct Nodes {
    plan: NodePlan,
    state: Mutex<State>,
}

struct State {
    sizes: Sizes,
    pools: HashMap<Address, Node>,
    /// Pools to servers that have another part now, until what is under way there has its answer.
    former: Vec<Pool>,
    closed: Option<Error>,
}

struct Node {
    role: Role,
    pool: Pool,
    aside_until: Option<Instant>,
}

impl Nodes {
    pub fn new(plan: NodePlan, sizes: Sizes) -> Self {
        Self { plan, state: Mutex::new(State { sizes, pools: HashMap::new(), former: Vec::new(), closed: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool to the server there, which is to have this role.
    pub fn pool(&self, address: &Address, role: Role) -> Pool {
        let mut state = self.state();
        if let Some(node) = state.pools.get(address)
            && node.role == role
        {
            return node.pool.clone();
        }
        let pool = self.planned(address, role, state.sizes);
        if let Some(closed) = &state.closed {
            pool.close(closed);
            return pool;
        }
        let node = Node { role, pool: pool.clone(), aside_until: None };
        if let Some(before) = state.pools.insert(address.clone(), node) {
            state.former.push(before.pool);
        }
        pool
    }

    fn planned(&self, address: &Address, role: Role, sizes: Sizes) -> Pool {
        let NodePlan { access, name, limit, runtime, home, on_new_life } = &self.plan;
        let origin = Origin::at(address.clone(), role, access.clone(), format!("Redis at {address}").into());
        let plan = Plan::new(origin, name.clone(), *limit);
        // Of a replica there is nothing that a new life could lose.
        let on_new_life = on_new_life.clone().filter(|_| role == Role::Primary);
        Pool::at_home(plan, sizes, runtime.clone(), home.clone(), on_new_life)
    }

    /// Those of these replicas that can be asked now; the others are connected to.
    pub fn ready_replicas<'a>(&self, addresses: impl Iterator<Item = &'a Address>) -> Vec<(Address, Pool)> {
        let now = Instant::now();
        let ready = |address: &Address| {
            let aside = self.state().pools.get(address).and_then(|node| node.aside_until);
            aside.is_none_or(|until| until <= now)
        };
        let ready =
            addresses.filter(|address| ready(address)).map(|address| (address, self.pool(address, Role::Replica)));
        ready.filter(|(_, pool)| pool.up().is_some()).map(|(address, pool)| (address.clone(), pool)).collect()
    }

    /// Leaves a replica alone for a moment.
    pub fn set_aside(&self, address: &Address) {
        if let Some(node) = self.state().pools.get_mut(address) {
            node.aside_until = Some(Instant::now() + ASIDE);
        }
    }

    /// Lets every pool have these sizes, if they are larger.
    pub fn enlarge(&self, sizes: Sizes) {
        let mut state = self.state();
        state.sizes = state.sizes.max(sizes);
        let sizes = state.sizes;
        state.pools.values().for_each(|node| node.pool.enlarge(sizes));
    }

    pub fn stats(&self) -> LaneStats {
        let pools: Vec<_> = self.state().pools.values().map(|node| node.pool.clone()).collect();
        pools.iter().map(Pool::stats).fold(LaneStats::default(), |sum, stats| sum + stats)
    }

    /// Closes lanes that were not needed for a while, and pools to servers that are `gone`.
    pub fn tend(&self, now: Instant, gone: impl Fn(&Address, Role) -> bool) {
        let mut state = self.state();
        let (closing, kept) = std::mem::take(&mut state.pools)
            .into_iter()
            .partition(|(address, node)| gone(address, node.role) && node.pool.stats().unanswered == 0);
        state.pools = kept;
        let (over, former) =
            std::mem::take(&mut state.former).into_iter().partition(|pool| pool.stats().unanswered == 0);
        state.former = former;
        let pools: Vec<_> = state.pools.values().map(|node| node.pool.clone()).collect();
        drop(state);
        for node in HashMap::<Address, Node>::into_values(closing) {
            node.pool.close(&OTHER_PART);
        }
        Vec::<Pool>::into_iter(over).for_each(|pool| pool.close(&OTHER_PART));
        pools.iter().for_each(|pool| pool.tend(now));
    }

    /// Ends every pool; what is unanswered, and what is sent from now on, fails with `error`.
    pub fn close(&self, error: &Error) {
        let pools = {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| error.clone());
            let pools = std::mem::take(&mut state.pools).into_values().map(|node| node.pool);
            pools.chain(std::mem::take(&mut state.former)).collect::<Vec<_>>()
        };
        pools.iter().for_each(|pool| pool.close(error));
    }
}

/// Nobody sees this one: nothing is under way there.
const OTHER_PART: Error = Error::Closed("The server has another part in its deployment now.");
