//! The log: JSON lines to stderr, or to a callback of JavaScript. Only this crate's own events, so that no library can
//! put a query or a key into it.

use crate::error::{Error, Result};
use once_cell::sync::OnceCell;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Takes one line, without its line break.
pub type Sink = Arc<dyn Fn(String) + Send + Sync>;

/// Where lines go, and which ones.
#[derive(Default)]
pub struct Log {
    output: Output,
    filter: OnceCell<reload::Handle<EnvFilter, Registry>>,
}

impl Log {
    /// Starts the log, or changes its filter.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if `filter` is no tracing filter.
    pub fn start(&self, filter: &str) -> Result<()> {
        let wrong = |fault: &dyn std::fmt::Display| {
            Error::InvalidConfig(format!("STUDIO_REDIS_LOG must be a tracing filter such as warn or debug ({fault})."))
        };
        let parsed = EnvFilter::try_new(filter).map_err(|fault| wrong(&fault))?;
        if let Some(handle) = self.filter.get() {
            return handle.reload(parsed).map_err(|fault| wrong(&fault));
        }
        let (reloadable, handle) = reload::Layer::new(parsed);
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(self.output.clone())
            .with_filter(filter_fn(|event| event.target().starts_with(env!("CARGO_CRATE_NAME"))));
        if tracing::subscriber::set_global_default(Registry::default().with(reloadable).with(lines)).is_ok() {
            let _ = self.filter.set(handle);
        }
        Ok(())
    }

    /// Sends lines to `sink` from now on, or to stderr again.
    pub fn set_sink(&self, sink: Option<Sink>) {
        *self.output.0.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    }
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Option<Sink>>>);

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Output {
    /// The formatter writes each line whole.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let sink = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match sink {
            Some(sink) => sink(String::from_utf8_lossy(line).trim_end().to_owned()),
            None => std::io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
