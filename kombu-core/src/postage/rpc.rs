use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Answer, Asked, Call, CallError, Caller};
use crate::client::Owned;
use crate::declare::Exchange;
use crate::driver::BoxFuture;
use crate::error::{Error, Result};
use crate::name::Name;

use super::{Message, RpcResult};

/// What Python calls it.
const TIMEOUT: &str = "TimeoutError";

/// A call to be made: awaiting it sends the command and waits for its result.
///
/// Each attempt waits for 30 s, and 4 follow the first one, unless it says otherwise. Then the result is an exception of
/// the name `TimeoutError`, as it is in Postage; an answer that can't be read is a [`RpcResult::Error`].
///
/// # Errors
///
/// What keeps the command from being sent.
#[must_use = "nothing is asked until this is awaited"]
pub struct Rpc<'a, M, T> {
    caller: BoxFuture<'a, Result<&'a Caller>>,
    message: M,
    timeout: Option<Option<Duration>>,
    max_retries: Option<u32>,
    exchange: Option<Exchange>,
    routing_key: Option<Name>,
    value: PhantomData<fn() -> T>,
}

impl<'a, M: Serialize, T: DeserializeOwned> Rpc<'a, M, T> {
    pub(super) fn new(caller: BoxFuture<'a, Result<&'a Caller>>, message: M) -> Self {
        Rpc {
            caller,
            message,
            timeout: None,
            max_retries: None,
            exchange: None,
            routing_key: None,
            value: PhantomData,
        }
    }

    /// How long each attempt waits; `None` waits for ever. Default: 30 s.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// How often the command is sent again. Default: 4.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Another exchange than the producer's first one. It isn't declared.
    pub fn exchange(mut self, exchange: &Exchange) -> Self {
        self.exchange = Some(exchange.clone());
        self
    }

    /// Another key than the producer's first one.
    pub fn routing_key(mut self, key: impl Into<Name>) -> Self {
        self.routing_key = Some(key.into());
        self
    }

    /// Sends the command once and waits for nothing: hands out the queue that its results come to, which is its own.
    ///
    /// # Errors
    ///
    /// Those of [`Call::ask`].
    pub async fn ask(self) -> Result<Asked<Message<RpcResult<T>>>> {
        let (caller, message) = self.parts().await?;
        Ok(message.call(caller).ask().await?)
    }

    async fn parts(self) -> Result<(&'a Caller, Prepared<M>)> {
        let caller = self.caller.await?;
        let prepared = Prepared {
            message: self.message,
            timeout: self.timeout,
            max_retries: self.max_retries,
            exchange: self.exchange,
            routing_key: self.routing_key,
        };
        Ok((caller, prepared))
    }
}

/// A call that only needs a caller.
struct Prepared<M> {
    message: M,
    timeout: Option<Option<Duration>>,
    max_retries: Option<u32>,
    exchange: Option<Exchange>,
    routing_key: Option<Name>,
}

impl<M: Serialize> Prepared<M> {
    fn call<T>(self, caller: &Caller) -> Call<'_, Owned<M>, Message<RpcResult<T>>> {
        let mut call = Call::new(caller, Owned(self.message));
        if let Some(timeout) = self.timeout {
            call = call.timeout(timeout);
        }
        if let Some(retries) = self.max_retries {
            call = call.max_retries(retries);
        }
        if let Some(exchange) = &self.exchange {
            call = call.exchange(exchange);
        }
        if let Some(key) = self.routing_key {
            call = call.routing_key(key);
        }
        call
    }
}

impl<'a, M: Serialize + Send + 'a, T: DeserializeOwned + 'a> IntoFuture for Rpc<'a, M, T> {
    type Output = Result<RpcResult<T>>;
    type IntoFuture = BoxFuture<'a, Result<RpcResult<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (caller, prepared) = self.parts().await?;
            let answer = prepared.call::<T>(caller).answer();
            result_of(answer.await)
        })
    }
}

fn result_of<T: DeserializeOwned>(
    answer: std::result::Result<Answer, CallError>,
) -> Result<RpcResult<T>> {
    Ok(match answer {
        Ok(answer) => match answer.decode::<Message<RpcResult<T>>>() {
            Ok(message) => message.content,
            Err(error) => malformed(&error),
        },
        Err(error @ CallError::Timeout { .. }) => RpcResult::Exception {
            name: TIMEOUT.to_owned(),
            message: error.to_string(),
        },
        Err(CallError::Application { name, message, .. }) => RpcResult::Exception { name, message },
        Err(CallError::Critical { message, .. }) => RpcResult::Exception {
            name: "CriticalError".to_owned(),
            message,
        },
        Err(CallError::Transient { message, .. }) => RpcResult::Exception {
            name: "TransientError".to_owned(),
            message,
        },
        Err(CallError::Malformed(error)) => malformed(&error),
        Err(error) => return Err(error.into()),
    })
}

fn malformed<T>(error: &Error) -> RpcResult<T> {
    RpcResult::Error {
        message: format!("Malformed reply: {error}"),
    }
}

impl<M, T> fmt::Debug for Rpc<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("timeout", &self.timeout)
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}
