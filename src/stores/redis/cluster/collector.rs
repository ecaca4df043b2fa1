//! Gathers the answers of several nodes.

use crate::error::Result;
use crate::redis_request::Answered;
use crate::redis_value::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done when all answers are there, in their order.
pub type Joined = Box<dyn FnOnce(Vec<Result<Value>>) + Send>;

struct Gathered {
    answers: Vec<Option<Result<Value>>>,
    missing: usize,
    joined: Option<Joined>,
}

/// Takes so many answers, in whatever order they come.
pub fn collect(count: usize, joined: Joined) -> Vec<Answered> {
    if count == 0 {
        joined(Vec::new());
        return Vec::new();
    }
    let answers = (0..count).map(|_| None).collect();
    let gathered = Arc::new(Mutex::new(Gathered { answers, missing: count, joined: Some(joined) }));
    let answered = |index: usize| -> Answered {
        let gathered = gathered.clone();
        Box::new(move |result| {
            let mut all = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            all.answers[index] = Some(result);
            all.missing -= 1;
            if all.missing > 0 {
                return;
            }
            let (answers, joined) = (std::mem::take(&mut all.answers), all.joined.take());
            drop(all);
            if let Some(joined) = joined {
                joined(answers.into_iter().flatten().collect());
            }
        })
    };
    (0..count).map(answered).collect()
}
