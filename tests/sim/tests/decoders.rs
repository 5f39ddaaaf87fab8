//! Bounded, repeatable noise for everything that decodes bytes from outside; `tests/fuzz` looks further.

use sim::decoders;
use wire::nbd::*;

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
    let flags = b"\0\0\0\x03".as_slice();
    let greeting = b"NBDMAGICIHAVEOPT\0\x03".as_slice();
    let answer = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0".as_slice();
    let export = b"\0\0\0\0\0\0\0\x10\0\0\x01\x01".as_slice();
    let sizes = b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0".as_slice();
    let simple = b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x01".as_slice();
    let chunk = b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x01\0\0\x02\x08".as_slice();
    let long = b"\x6e\x8a\x27\x8c\0\x01\0\x06\0\0\0\0\0\0\0\x01\
        \0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x18"
        .as_slice();
    let status = b"\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x03".as_slice();
    let samples = [
        flags, info, option, request, extended, filter, contexts, greeting, answer, export, sizes,
        simple, chunk, long, status,
    ];
    pelt(200_000, &samples, decoders::nbd);
}

/// An option of the handshake.
fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("samples are short");
    [&OptionHead { option, len }.encode()[..], data].concat()
}

/// A length and the text.
fn text(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).expect("samples are short");
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

/// The data of INFO and GO.
fn info(name: &str, wanted: &[u16]) -> Vec<u8> {
    let count = u16::try_from(wanted.len()).expect("samples are short");
    let wanted = wanted.iter().flat_map(|info| info.to_be_bytes());
    let head = text(name).into_iter().chain(count.to_be_bytes());
    head.chain(wanted).collect()
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).expect("samples are short");
    let queries = queries.iter().flat_map(|query| text(query));
    let head = text(name).into_iter().chain(count.to_be_bytes());
    head.chain(queries).collect()
}

fn request(flags: u16, command: u16, offset: u64, len: u64) -> Request {
    Request {
        flags,
        command,
        cookie: 1,
        offset,
        len,
    }
}

/// An extended request with a payload.
fn with_payload(flags: u16, command: u16, payload: &[u8]) -> Vec<u8> {
    let flags = flags | NBD_CMD_FLAG_PAYLOAD_LEN;
    let request = request(flags, command, 0, payload.len() as u64);
    [&request.encode_extended()[..], payload].concat()
}

/// The payload of a BLOCK_STATUS.
fn filter(len: u64, ids: &[u32]) -> Vec<u8> {
    let ids = ids.iter().flat_map(|id| id.to_be_bytes());
    len.to_be_bytes().into_iter().chain(ids).collect()
}

const BOTH: [&str; 2] = [BASE_ALLOCATION, "ferrite:changed:s"];

/// No handshake goes before what the sample says, nor after these first bytes: the flags of a client.
const FRESH: &[u8] = &[0, 0, 0, 0, 3];

/// A session that looks at exports: LIST, INFO, contexts, and a name that is none.
fn looking() -> Vec<u8> {
    let all = [
        NBD_INFO_EXPORT,
        NBD_INFO_NAME,
        NBD_INFO_DESCRIPTION,
        NBD_INFO_BLOCK_SIZE,
    ];
    [
        FRESH,
        &option(NBD_OPT_LIST, &[]),
        &option(NBD_OPT_INFO, &info("demo", &all)),
        &option(NBD_OPT_INFO, &info("demo@s", &all[1..3])),
        &option(NBD_OPT_INFO, &info("none", &[])),
        &option(NBD_OPT_STRUCTURED_REPLY, &[]),
        &option(NBD_OPT_LIST_META_CONTEXT, &contexts("demo", &[])),
        &option(
            NBD_OPT_LIST_META_CONTEXT,
            &contexts("demo", &["base:", "ferrite:"]),
        ),
        &option(NBD_OPT_SET_META_CONTEXT, &contexts("demo", &["x:y"])),
        &option(NBD_OPT_ABORT, &[]),
    ]
    .concat()
}

/// A session with compact requests, whose replies are structured.
fn structured() -> Vec<u8> {
    [
        FRESH,
        &option(NBD_OPT_STRUCTURED_REPLY, &[]),
        &option(NBD_OPT_SET_META_CONTEXT, &contexts("demo", &BOTH)),
        &option(NBD_OPT_GO, &info("demo", &[])),
        &request(0, NBD_CMD_BLOCK_STATUS, 0, 1 << 20).encode(),
        &request(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 4096, 512).encode(),
        &request(0, NBD_CMD_READ, 0, 64 << 10).encode(),
        &request(NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 8192).encode(),
        &request(0, NBD_CMD_READ, 1 << 20, 1).encode(),
        &request(0, NBD_CMD_DISC, 0, 0).encode(),
    ]
    .concat()
}

/// A session with extended requests; ids and lengths go up to what there is, and beyond.
fn extended() -> Vec<u8> {
    let status = |ids: &[u32]| with_payload(0, NBD_CMD_BLOCK_STATUS, &filter(1 << 20, ids));
    let too_many: Vec<u32> = (0..17).collect();
    [
        FRESH,
        &option(NBD_OPT_EXTENDED_HEADERS, &[]),
        &option(NBD_OPT_STRUCTURED_REPLY, &[]),
        &option(NBD_OPT_SET_META_CONTEXT, &contexts("demo", &BOTH)),
        &option(NBD_OPT_GO, &info("demo", &[NBD_INFO_NAME])),
        &status(&[1, 0]),
        &status(&[1]),
        &status(&[2]),
        &status(&[40]),
        &status(&[]),
        &status(&too_many),
        &with_payload(NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, &[7; 512]),
        &request(0, NBD_CMD_WRITE_ZEROES, 0, 1 << 40).encode_extended(),
        &request(0, NBD_CMD_BLOCK_STATUS, 0, 1 << 20).encode_extended(),
        &request(0, NBD_CMD_READ, 0, 16384).encode_extended(),
        &request(0, NBD_CMD_READ, 0, 1 << 33).encode_extended(),
    ]
    .concat()
}

/// EXPORT_NAME, once with and once without the zeros behind its answer.
fn by_name(flags: u8) -> Vec<u8> {
    [
        &[0, 0, 0, 0, flags][..],
        &option(NBD_OPT_EXPORT_NAME, b"demo"),
        &request(0, NBD_CMD_READ, 0, 512).encode(),
    ]
    .concat()
}

#[test]
fn nbd_sessions() {
    let read = [&[128][..], &request(0, NBD_CMD_READ, 0, 4096).encode()].concat();
    let zeroes = [
        &[128][..],
        &request(0, NBD_CMD_WRITE_ZEROES, 0, 512).encode(),
    ]
    .concat();
    let status = with_payload(
        NBD_CMD_FLAG_REQ_ONE,
        NBD_CMD_BLOCK_STATUS,
        &filter(4096, &[0]),
    );
    let status = [&[192][..], &status].concat();
    let sessions = [looking(), structured(), extended(), by_name(1), by_name(3)];
    let all = [read, zeroes, status].into_iter().chain(sessions);
    let all: Vec<Vec<u8>> = all.collect();
    let samples: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    pelt(1000, &samples, decoders::nbd_session);
}

/// What a server says to the requests of the client: reads of 4 and of 8 KiB, what is allocated, and another read.
fn answers(first: u8, headers: Headers) -> Vec<u8> {
    let to = |cookie, offset| ReplyTo {
        headers,
        cookie,
        offset,
    };
    let data = |cookie, offset, len: u32| {
        let head = match headers {
            Headers::Simple => to(cookie, offset).simple(None),
            _ => to(cookie, offset).data(true, offset, len),
        };
        [&head[..], &vec![7; len as usize]].concat()
    };
    let mut said = [vec![first], data(2, 8192, 8192), data(1, 0, 4096)].concat();
    if headers.in_chunks() {
        let list = to(3, 4096);
        said.extend(&*list.block_status(true, 5, 2));
        said.extend(&*list.descriptor(8192, NBD_STATE_ZERO));
        said.extend(&*list.descriptor(1 << 20, 0));
        let last = to(4, (1 << 20) - 4096);
        said.extend(&*last.hole(false, last.offset, 512));
        said.extend(&*last.error_at(true, NBD_EIO, last.offset));
    } else {
        said.extend(&*to(3, 0).simple(Some(NBD_EIO)));
    }
    said
}

#[test]
fn nbd_origins() {
    let greeting = [&[0][..], &greeting(), b"\0\x03\xe8\x89\x04\x55\x65\xa9"].concat();
    let all = [
        greeting,
        answers(64, Headers::Simple),
        answers(128, Headers::Structured),
        answers(192, Headers::Extended),
    ];
    let samples: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    pelt(3000, &samples, decoders::nbd_origin);
}

#[test]
fn peers() {
    // A hello for pairing and one for a link, each with a message of the right length.
    let pair = [&b"\0ferrite\x01\x01\0\x30"[..], &[7; 48]].concat();
    let link = [&b"\0ferrite\x01\x02\0\x60"[..], &[7; 96]].concat();
    // Second messages of a link and of pairing, and what might follow.
    let linked = [&b"\x60\0\x30"[..], &[7; 48], b"\0\x11", &[7; 17]].concat();
    let paired = [&b"\xc0\0\x66"[..], &[7; 102], b"\0\x11", &[7; 17]].concat();
    let samples = [&pair[..], &link, &linked, &paired];
    pelt(300, &samples, decoders::peer);
}

#[test]
fn what_peers_say_of_volumes() {
    let message = |head: &str, data: &[u8]| {
        let len = u16::try_from(head.len()).expect("a head");
        [&len.to_le_bytes()[..], head.as_bytes(), data].concat()
    };
    let id = "ab".repeat(16);
    let moved = format!(r#"{{"moved":{{"id":"{id}","epoch":3,"since":2}}}}"#);
    let all = [
        message(
            &format!(
                r#"{{"number":7,"ask":{{"read":{{"of":{moved},"offset":4096,"blocks":32}}}}}}"#
            ),
            b"",
        ),
        message(
            &format!(
                r#"{{"number":8,"ask":{{"offer":{{"id":"{id}","nonce":1,"epoch":2,"name":"db","size_bytes":4096,"settings":"","since":null}}}}}}"#
            ),
            b"",
        ),
        message(
            &format!(
                r#"{{"number":3,"ask":{{"past":{{"id":"{id}","epoch":2,"before":{{"snapshot":"{id}","created_at_nanos":5}}}}}}}}"#
            ),
            b"",
        ),
        message(
            &format!(
                r#"{{"number":4,"ask":{{"extents":{{"of":{{"past":{{"id":"{id}","epoch":2,"snapshot":[17,"{id}"],"from":18}}}},"offset":0,"len":4096}}}}}}"#
            ),
            b"",
        ),
        message(
            &format!(
                r#"{{"number":3,"say":{{"past":{{"number":17,"id":"{id}","name":"monday","size_bytes":4096,"created_at_nanos":5}}}}}}"#
            ),
            b"",
        ),
        message(
            r#"{"number":7,"say":{"blocks":[["data",1],["zero",2],["same",29]]}}"#,
            &[7; 4112],
        ),
        message(
            r#"{"number":9,"say":"extents"}"#,
            &[1, 0, 16, 0, 0, 0, 0, 0, 0],
        ),
        [[0, 0, 16, 0, 0, 0, 0, 0, 0], [2, 0, 32, 0, 0, 0, 0, 0, 0]].concat(),
    ];
    let samples: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    for sample in &samples {
        assert!(migration::inspect(sample), "{sample:?} is none");
    }
    pelt(100_000, &samples, decoders::migration);
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
