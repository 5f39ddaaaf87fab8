//! One HTTP connection: requests one after another.

use alloc::vec::Vec;
use core::time::Duration;

use net::{NetError, Stream};
use wire::http::{CONTINUE, HEAD_MAX, RequestHead, encode_response_head};
use world::Disk;

use super::clients::{Phase, Place};
use super::problem::Problem;
use super::router::{Response, console};
use super::{BODY_MAX, Server};

/// How long, and how much, a client may go on sending after the answer that closes its connection. Closing at once
/// would reset it, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
/// Answers up to this length are sent together with their head.
const SHORT_BYTES: usize = 4096;

/// Serves one connection to its end.
pub(super) async fn serve<D: Disk + 'static, S: Stream>(
    server: &Server<D>,
    stream: &S,
    place: &Place,
) {
    let mut connection = Connection {
        server,
        stream,
        place,
        received: Vec::new(),
    };
    while let Ok(After::Keep) = connection.request().await {}
    connection.enters(Phase::Idle);
    stream.finish();
    connection.linger().await;
}

struct Connection<'a, D, S> {
    server: &'a Server<D>,
    stream: &'a S,
    place: &'a Place,
    /// What was received and not yet used; at most a head and a body.
    received: Vec<u8>,
}

/// What becomes of the connection.
enum After {
    Keep,
    Close,
}

/// How a response is sent.
struct Manner {
    /// Without its body, which a HEAD asks for.
    head_only: bool,
    keeps_alive: bool,
}

impl<D: Disk + 'static, S: Stream> Connection<'_, D, S> {
    async fn request(&mut self) -> Result<After, NetError> {
        let exec = &self.server.exec;
        if self.received.is_empty() {
            self.enters(Phase::Idle);
            let idle = self.server.limits.idle_time_max;
            match exec.timeout(idle, self.receive()).await {
                Ok(Ok(1..)) => {}
                _ => return Ok(After::Close),
            }
        }
        self.enters(Phase::Transfer);
        let deadline = exec.now() + self.server.limits.request_time_max;
        let left = || deadline.since(self.server.exec.now());
        let close = Manner {
            head_only: false,
            keeps_alive: false,
        };
        let head = match exec.timeout(left(), self.head()).await {
            Ok(head) => head?,
            Err(_) => Err(Problem::new(408, "the request took too long")),
        };
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(After::Close),
            Err(problem) => return self.respond(problem.into_response(), close).await,
        };
        let manner = Manner {
            head_only: head.method == "HEAD",
            keeps_alive: head.keeps_alive,
        };
        let peer = self.stream.peer().ip();
        let accepted = self.server.accept(&head, peer);
        if head.content_length > BODY_MAX as u64
            || (accepted.is_err() && head.expects_continue && head.content_length > 0)
        {
            // The body will not be read, so what follows is not the next request.
            let too_large = || Problem::new(413, "a body has at most 65536 bytes");
            let problem = accepted.err().unwrap_or_else(too_large);
            let keeps_alive = false;
            let manner = Manner {
                keeps_alive,
                ..manner
            };
            return self.respond(problem.into_response(), manner).await;
        }
        let body_len = usize::try_from(head.content_length).unwrap_or(BODY_MAX);
        if head.expects_continue && self.received.len() < body_len {
            self.stream.write_all(CONTINUE).await?;
        }
        match exec.timeout(left(), self.fill(body_len)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(After::Close),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let problem = Problem::new(408, "the request took too long");
                return self.respond(problem.into_response(), close).await;
            }
        }
        let body: Vec<u8> = self.received.drain(..body_len).collect();
        self.enters(Phase::Work);
        let response = match accepted {
            Ok(accepted) => self.server.perform(accepted, &head, peer, &body).await,
            Err(problem) => console(&head).unwrap_or_else(|| problem.into_response()),
        };
        self.respond(response, manner).await
    }

    fn enters(&self, phase: Phase) {
        self.place.enters(phase, self.server.exec.now());
    }

    /// Reads a head. `None` when the client closed instead.
    async fn head(&mut self) -> Result<Result<Option<RequestHead>, Problem>, NetError> {
        loop {
            // RFC 9112, 2.2: empty lines before a request are ignored.
            let blank = self
                .received
                .iter()
                .take_while(|byte| b"\r\n".contains(byte))
                .count();
            self.received.drain(..blank);
            match RequestHead::decode(&self.received) {
                Ok(Some((head, len))) => {
                    self.received.drain(..len);
                    return Ok(Ok(Some(head)));
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error.into())),
            }
            if self.receive().await? == 0 {
                return Ok(Ok(None));
            }
        }
    }

    /// Receives until there are `len` bytes; `false` when the client closed before.
    async fn fill(&mut self, len: usize) -> Result<bool, NetError> {
        while self.received.len() < len {
            if self.receive().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Receives some bytes, 0 at the end of the stream.
    async fn receive(&mut self) -> Result<usize, NetError> {
        let mut part = [0; 1024];
        let count = self.stream.read(&mut part).await?;
        self.received.extend_from_slice(&part[..count]);
        debug_assert!(self.received.len() <= HEAD_MAX + BODY_MAX + part.len());
        Ok(count)
    }

    async fn respond(&self, response: Response, manner: Manner) -> Result<After, NetError> {
        self.enters(Phase::Transfer);
        let mut headers: Vec<(&str, &str)> = Vec::with_capacity(8);
        headers.extend(response.content_type.map(|value| ("Content-Type", value)));
        let own = response.headers.iter();
        headers.extend(own.map(|(name, value)| (*name, value.as_str())));
        if !headers.iter().any(|(name, _)| *name == "Cache-Control") {
            headers.push(("Cache-Control", "no-store"));
        }
        // RFC 9110, 8.6: a 204 has no Content-Length, and that of a 304 would be another's.
        let len = (!matches!(response.status, 204 | 304)).then_some(response.body.len());
        let mut bytes = encode_response_head(response.status, &headers, len, manner.keeps_alive);
        let mut rest: &[u8] = if manner.head_only {
            &[]
        } else {
            &response.body
        };
        if rest.len() <= SHORT_BYTES {
            bytes.extend_from_slice(rest);
            rest = &[];
        }
        let send = async {
            self.stream.write_all(&bytes).await?;
            self.stream.write_all(rest).await
        };
        let limit = self.server.limits.request_time_max;
        match self.server.exec.timeout(limit, send).await {
            Ok(result) => result?,
            Err(_) => {
                self.stream.abort();
                return Err(NetError::TimedOut);
            }
        }
        Ok(if manner.keeps_alive {
            After::Keep
        } else {
            After::Close
        })
    }

    /// Reads on for a while after closing.
    async fn linger(&self) {
        let drain = async {
            let (mut part, mut total) = ([0; 1024], 0);
            while total < LINGER_BYTES {
                match self.stream.read(&mut part).await {
                    Ok(0) | Err(_) => return true,
                    Ok(count) => total += count,
                }
            }
            false
        };
        if !matches!(self.server.exec.timeout(LINGER, drain).await, Ok(true)) {
            self.stream.abort();
        }
    }
}
