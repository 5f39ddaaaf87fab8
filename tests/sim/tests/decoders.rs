//! Bounded, repeatable noise for everything that decodes bytes from outside; `tests/fuzz` looks further.

use sim::decoders;

/// A stream of numbers, so that a failure repeats.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 ^ (self.0 >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 8
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = usize::try_from(self.next()).unwrap_or(0) % (most + 1);
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// One of the samples with a few bytes changed, or noise.
    fn mutated(&mut self, samples: &[&[u8]]) -> Vec<u8> {
        let choice = usize::try_from(self.next()).unwrap_or(0) % (samples.len() + 1);
        let Some(sample) = samples.get(choice) else {
            return self.bytes(600);
        };
        let mut bytes = sample.to_vec();
        for _ in 0..self.next() % 4 {
            let at = usize::try_from(self.next()).unwrap_or(0) % bytes.len();
            match self.next() % 3 {
                0 => bytes[at] = self.next().to_le_bytes()[0],
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, self.next().to_le_bytes()[0]),
            }
        }
        bytes
    }
}

fn pelt(rounds: u32, samples: &[&[u8]], decode: fn(&[u8])) {
    let mut numbers = Numbers(1);
    decode(&[]);
    for sample in samples {
        decode(sample);
    }
    for _ in 0..rounds {
        decode(&numbers.mutated(samples));
    }
}

#[test]
fn nbd_structures() {
    let info = b"\0\0\0\x04demo\0\x01\0\x03".as_slice();
    let option = b"IHAVEOPT\0\0\0\x07\0\0\0\x06".as_slice();
    let request =
        b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\x10\0".as_slice();
    let extended =
        b"\x21\xe4\x1c\x71\0\x28\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\0\x01\0\0\x10\0";
    let filter = b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01".as_slice();
    let contexts = b"\0\0\0\x04demo\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x03x:y".as_slice();
    let samples = [info, option, request, extended, filter, contexts];
    pelt(200_000, &samples, decoders::nbd);
}

#[test]
fn nbd_sessions() {
    let request =
        b"\x80\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\x10\0".as_slice();
    let zeroes =
        b"\x80\x25\x60\x95\x13\0\0\0\x06\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x02\0".as_slice();
    let option = b"\0\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\0\0IHAVEOPT\0\0\0\x01\0\0\0\0".as_slice();
    let status =
        b"\xc0\x21\xe4\x1c\x71\0\x28\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x0c\
          \0\0\0\0\0\0\x10\0\0\0\0\0"
            .as_slice();
    let contexts = b"\0\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0\
          IHAVEOPT\0\0\0\x09\0\0\0\x13\0\0\0\0\0\0\0\x01\0\0\0\x07ferrite:\
          IHAVEOPT\0\0\0\x0a\0\0\0\x11\0\0\0\0\0\0\0\x01\0\0\0\x05base:"
        .as_slice();
    let samples = [request, zeroes, option, status, contexts];
    pelt(400, &samples, decoders::nbd_session);
}

#[test]
fn http_heads() {
    let get = b"GET /v1/volumes/%64emo?force=1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n";
    let post = b"POST / HTTP/1.0\r\nContent-Length: 12\r\n\r\n";
    pelt(100_000, &[get, post], decoders::http);
}

#[test]
fn api_requests() {
    let raw =
        b"\0GET /v1/node HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\r\n".as_slice();
    let create = b"\x01{\"name\": \"a\", \"size\": 1048576}".as_slice();
    let change = b"\x02{\"size\": 2097152}".as_slice();
    pelt(500, &[raw, create, change], decoders::api);
}

#[test]
fn frames() {
    let syn = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0\
        \x45\0\0\x28\0\0\x40\0\x40\x06\0\0\x0a\0\0\x02\x0a\0\0\x01\
        \x12\x34\x2a\x39\0\0\0\x01\0\0\0\0\x50\x02\x04\0\0\0\0\0"
        .as_slice();
    let arp = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x02\x08\x06\
        \0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\0\x02\x0a\0\0\x02\0\0\0\0\0\0\x0a\0\0\x01"
        .as_slice();
    pelt(20_000, &[syn, arp], decoders::frame);
}

#[test]
fn configurations() {
    let toml = b"[node]\nname = \"a\"\n[net]\naddress = [\"10.0.0.2/24\"]\n".as_slice();
    let words = b"node.name=a net.address=10.0.0.2/24,fd00::2/64 log.level=debug".as_slice();
    pelt(20_000, &[toml, words], decoders::configuration);
}

#[test]
fn images() {
    pelt(
        300,
        &[b"\0\0\0\0\x08\x01\x02\x03\x04\x05\x06\x07\x08"],
        decoders::image,
    );
}
