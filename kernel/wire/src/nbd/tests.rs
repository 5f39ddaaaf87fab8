//! Bytes of the protocol, as its document prints them, and noise.

mod client;

use super::*;
use alloc::vec::Vec;

#[test]
fn greeting_is_what_the_document_says() {
    assert_eq!(&greeting(), b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn client_flags_that_were_not_offered_are_refused() {
    let flags = ClientFlags::decode([0, 0, 0, 3]).unwrap();
    assert!(flags.fixed_newstyle && flags.no_zeroes);
    assert!(!ClientFlags::decode([0, 0, 0, 2]).unwrap().fixed_newstyle);
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 4]),
        Err(NbdError::UnknownFlags)
    );
}

#[test]
fn request_bytes() {
    let request = Request {
        flags: NBD_CMD_FLAG_FUA,
        command: NBD_CMD_WRITE,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        len: 0x200,
    };
    let bytes = request.encode();
    assert_eq!(
        bytes,
        *b"\x25\x60\x95\x13\x00\x01\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\
           \x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00"
    );
    assert_eq!(Request::decode(bytes), Ok(request));
    let mut wrong = bytes;
    wrong[0] = 0;
    assert_eq!(Request::decode(wrong), Err(NbdError::BadMagic));
}

#[test]
fn extended_request_bytes() {
    let request = Request {
        flags: NBD_CMD_FLAG_PAYLOAD_LEN,
        command: NBD_CMD_WRITE,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        len: 0x1_0000_0200,
    };
    let bytes = request.encode_extended();
    assert_eq!(
        bytes,
        *b"\x21\xe4\x1c\x71\x00\x20\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\
           \x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x01\x00\x00\x02\x00"
    );
    assert_eq!(Request::decode_extended(bytes), Ok(request));
    let mut compact = bytes;
    compact[..4].copy_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
    assert_eq!(Request::decode_extended(compact), Err(NbdError::BadMagic));
    let payload = |request: Request, headers| request.payload_len(headers);
    assert_eq!(payload(request, Headers::Extended), request.len);
    let plain = Request {
        flags: 0,
        ..request
    };
    assert_eq!(payload(plain, Headers::Extended), 0);
    assert_eq!(payload(plain, Headers::Structured), request.len);
    let trim = Request {
        command: NBD_CMD_TRIM,
        ..request
    };
    assert_eq!(payload(trim, Headers::Simple), 0);
}

#[test]
fn status_filter_is_a_length_and_ids() {
    let bytes = b"\x00\x00\x00\x01\x00\x00\x02\x00\x00\x00\x00\x02\x00\x00\x00\x07";
    let filter = StatusFilter::decode(bytes).unwrap();
    assert_eq!(filter.len, 0x1_0000_0200);
    assert_eq!(filter.ids().collect::<Vec<_>>(), [2, 7]);
    for len in [0, 7, 9, 15] {
        assert_eq!(
            StatusFilter::decode(&bytes[..len]),
            Err(NbdError::Malformed)
        );
    }
    assert_eq!(StatusFilter::decode(&bytes[..8]).unwrap().ids().count(), 0);
}

fn reply(headers: Headers) -> ReplyTo {
    ReplyTo {
        headers,
        cookie: 7,
        offset: 0xa000,
    }
}

#[test]
fn reply_bytes() {
    assert_eq!(
        *reply(Headers::Structured).result(Some(NBD_EINVAL)),
        *b"\x67\x44\x66\x98\x00\x00\x00\x16\x00\x00\x00\x00\x00\x00\x00\x07"
    );
    let to = reply(Headers::Structured);
    assert_eq!(
        *to.data(true, 0x1000, 0x200),
        *b"\x66\x8e\x33\xef\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x02\x08\
           \x00\x00\x00\x00\x00\x00\x10\x00"
    );
    assert_eq!(
        *to.hole(false, 0x1000, 0x200),
        *b"\x66\x8e\x33\xef\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x0c\
           \x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00"
    );
    assert_eq!(
        *to.error_at(false, NBD_EIO, 0x1000),
        *b"\x66\x8e\x33\xef\x00\x00\x80\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x0e\
           \x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00"
    );
    assert_eq!(
        *to.block_status(true, 3, 2),
        *b"\x66\x8e\x33\xef\x00\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x14\
           \x00\x00\x00\x03"
    );
    assert_eq!(
        *to.descriptor(0x1000, NBD_STATE_HOLE | NBD_STATE_ZERO),
        *b"\x00\x00\x10\x00\x00\x00\x00\x03"
    );
}

#[test]
fn extended_reply_bytes() {
    let to = reply(Headers::Extended);
    assert_eq!(
        *to.result(None),
        *b"\x6e\x8a\x27\x8c\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\
           \x00\x00\x00\x00\x00\x00\xa0\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    );
    assert_eq!(
        *to.hole(true, 0xb000, 0x200),
        *b"\x6e\x8a\x27\x8c\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x07\
           \x00\x00\x00\x00\x00\x00\xa0\x00\x00\x00\x00\x00\x00\x00\x00\x0c\
           \x00\x00\x00\x00\x00\x00\xb0\x00\x00\x00\x02\x00"
    );
    assert_eq!(
        *to.block_status(true, 3, 1),
        *b"\x6e\x8a\x27\x8c\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00\x00\x07\
           \x00\x00\x00\x00\x00\x00\xa0\x00\x00\x00\x00\x00\x00\x00\x00\x18\
           \x00\x00\x00\x03\x00\x00\x00\x01"
    );
    assert_eq!(
        *to.descriptor(1 << 40, NBD_STATE_ZERO),
        *b"\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
    );
    assert_eq!(to.error_at(true, NBD_EIO, 1).len(), ReplyHead::LEN_MAX);
}

#[test]
fn meta_request_lengths_must_add_up() {
    let good = b"\x00\x00\x00\x04demo\x00\x00\x00\x02\x00\x00\x00\x05base:\x00\x00\x00\x03x:y";
    let meta = MetaRequest::decode(good).unwrap();
    assert_eq!(meta.name, "demo");
    assert_eq!(meta.queries().collect::<Vec<_>>(), ["base:", "x:y"]);
    for cut in 0..good.len() {
        let decoded = MetaRequest::decode(&good[..cut]);
        assert_eq!(decoded, Err(NbdError::Malformed), "{cut}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(MetaRequest::decode(&longer), Err(NbdError::Malformed));
    for query in ["base", ":allocation", ""] {
        let mut bytes = b"\x00\x00\x00\x00\x00\x00\x00\x01".to_vec();
        bytes.extend((query.len() as u32).to_be_bytes());
        bytes.extend(query.as_bytes());
        let decoded = MetaRequest::decode(&bytes);
        assert_eq!(decoded, Err(NbdError::Malformed), "{query}");
    }
    let many = b"\x00\x00\x00\x00\xff\xff\xff\xff";
    assert_eq!(MetaRequest::decode(many), Err(NbdError::Malformed));
    let none = MetaRequest::decode(&[0; 8]).unwrap();
    assert_eq!((none.name, none.queries().count()), ("", 0));
}

#[test]
fn info_request_lengths_must_add_up() {
    let good = b"\x00\x00\x00\x04demo\x00\x02\x00\x00\x00\x03";
    let info = InfoRequest::decode(good).unwrap();
    assert_eq!(info.name, "demo");
    assert!(info.wants(NBD_INFO_BLOCK_SIZE) && !info.wants(NBD_INFO_NAME));
    for cut in 0..good.len() {
        assert_eq!(
            InfoRequest::decode(&good[..cut]),
            Err(NbdError::Malformed),
            "{cut}"
        );
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(InfoRequest::decode(&longer), Err(NbdError::Malformed));
    let mut long_name = 4097u32.to_be_bytes().to_vec();
    long_name.extend([b'a'; 4099]);
    assert_eq!(InfoRequest::decode(&long_name), Err(NbdError::NameTooLong));
    assert_eq!(
        InfoRequest::decode(b"\xff\xff\xff\xffdemo\x00\x00"),
        Err(NbdError::Malformed)
    );
}

/// Flips, cuts and grows valid inputs; whatever decodes must be within its input.
#[test]
fn no_input_panics() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let seed = b"\x00\x00\x00\x04demo\x00\x02\x00\x00\x00\x03".as_slice();
    let mut bytes: Vec<u8> = seed.to_vec();
    for round in 0..200_000 {
        if round % 16 == 0 {
            bytes.clear();
            bytes.extend_from_slice(seed);
        }
        match next() % 4 {
            0 if !bytes.is_empty() => {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            1 => bytes.truncate(next() as usize % 24),
            2 => bytes.push(next() as u8),
            _ if !bytes.is_empty() => {
                let at = next() as usize % bytes.len();
                bytes[at] ^= 1 << (next() % 8);
            }
            _ => {}
        }
        if let Ok(info) = InfoRequest::decode(&bytes) {
            assert!(info.name.len() + 6 <= bytes.len());
        }
        let mut fixed = [0; Request::LEN];
        for (to, from) in fixed.iter_mut().zip(&bytes) {
            *to = *from;
        }
        let _ = Request::decode(fixed);
        fixed[..4].copy_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        assert_eq!(Request::decode(fixed).unwrap().encode(), fixed);
        if let Ok(meta) = MetaRequest::decode(&bytes) {
            let texts: usize = meta.queries().map(|query| query.len() + 4).sum();
            assert_eq!(meta.name.len() + 8 + texts, bytes.len());
        }
        let mut head = [0; OptionHead::LEN];
        head.copy_from_slice(&fixed[..OptionHead::LEN]);
        assert!(OptionHead::decode(head).is_err());
    }
}
