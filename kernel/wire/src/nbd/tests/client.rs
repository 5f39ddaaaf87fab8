//! What a client asks is what a server reads, and the other way round; every length is checked.

use super::*;

#[test]
fn greetings_are_read_as_they_are_written() {
    let both = Greeting {
        fixed_newstyle: true,
        no_zeroes: true,
    };
    assert_eq!(Greeting::decode(greeting()), Ok(both));
    let mut plain = greeting();
    plain[17] = 0;
    let none = Greeting::decode(plain).unwrap();
    assert!(!none.fixed_newstyle && !none.no_zeroes);
    // The old style has another second magic.
    let mut old = greeting();
    old[8..16].copy_from_slice(&0x0000_4202_8186_1253_u64.to_be_bytes());
    assert_eq!(Greeting::decode(old), Err(NbdError::BadMagic));
    for flags in [0, 1, 2, 3] {
        let flags = ClientFlags::decode([0, 0, 0, flags]).unwrap();
        assert_eq!(ClientFlags::decode(flags.encode()), Ok(flags));
    }
}

#[test]
fn options_are_read_as_they_are_written() {
    let bytes = info_request("demo", &[NBD_INFO_BLOCK_SIZE]);
    assert_eq!(bytes, b"\x00\x00\x00\x04demo\x00\x01\x00\x03");
    let request = InfoRequest::decode(&bytes).unwrap();
    assert!(request.name == "demo" && request.wants(NBD_INFO_BLOCK_SIZE));
    let bytes = meta_request("", &[BASE_ALLOCATION, "x:y"]);
    let request = MetaRequest::decode(&bytes).unwrap();
    assert_eq!(request.name, "");
    let queries: Vec<_> = request.queries().collect();
    assert_eq!(queries, [BASE_ALLOCATION, "x:y"]);
    let head = OptionReplyHead {
        option: NBD_OPT_GO,
        reply: NBD_REP_ERR_UNKNOWN,
        len: 0x102,
    };
    assert_eq!(OptionReplyHead::decode(head.encode()), Ok(head));
    let mut wrong = head.encode();
    wrong[0] = 1;
    assert_eq!(OptionReplyHead::decode(wrong), Err(NbdError::BadMagic));
}

#[test]
fn information_has_the_length_of_its_kind() {
    let (size_bytes, flags) = (1 << 40, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
    let export = info_export(size_bytes, flags);
    let expected = ExportInfo { size_bytes, flags };
    assert_eq!(Info::decode(&export), Ok(Info::Export(expected)));
    let by_name: [u8; ExportInfo::LEN] = export[2..].try_into().unwrap();
    assert_eq!(ExportInfo::decode(by_name), expected);
    let sizes = info_block_size(512, 4096, 1 << 25);
    let expected = Info::BlockSize {
        minimum: 512,
        preferred: 4096,
        payload_max: 1 << 25,
    };
    assert_eq!(Info::decode(&sizes), Ok(expected));
    for whole in [&export[..], &sizes] {
        for len in 0..whole.len() {
            assert_eq!(Info::decode(&whole[..len]), Err(NbdError::Malformed));
        }
        let longer = [whole, &[0]].concat();
        assert_eq!(Info::decode(&longer), Err(NbdError::Malformed));
    }
    assert_eq!(Info::decode(b"\x00\x02text"), Ok(Info::Other(2)));
    let context = MetaContext::decode(b"\x00\x00\x00\x07base:allocation").unwrap();
    assert_eq!((context.id, context.name), (7, BASE_ALLOCATION.as_bytes()));
    assert_eq!(MetaContext::decode(&[0; 3]), Err(NbdError::Malformed));
}

/// The head of a reply that a server writes, and what follows it.
fn read_back(headers: Headers, bytes: &[u8]) -> (Reply, &[u8]) {
    let len = Reply::len(headers, *bytes.first_chunk().unwrap()).unwrap();
    assert!(len <= Reply::LEN_MAX);
    for wrong in (0..len).chain(len + 1..bytes.len()) {
        let decoded = Reply::decode(headers, &bytes[..wrong]);
        assert_eq!(decoded, Err(NbdError::Malformed));
    }
    let (head, rest) = bytes.split_at(len);
    (Reply::decode(headers, head).unwrap(), rest)
}

#[test]
fn replies_are_read_as_they_are_written() {
    for headers in [Headers::Simple, Headers::Structured] {
        for error in [None, Some(NBD_EIO)] {
            let bytes = reply(headers).simple(error);
            let (read, rest) = read_back(headers, &bytes);
            assert_eq!((read, rest), (Reply::Simple { error, cookie: 7 }, &[][..]));
        }
    }
    for headers in [Headers::Structured, Headers::Extended] {
        let chunk = |is_last, kind, len| {
            Reply::Chunk(Chunk {
                is_last,
                kind,
                cookie: 7,
                offset: (headers == Headers::Extended).then_some(0xa000),
                len,
            })
        };
        let to = reply(headers);
        let data = to.data(false, 0x1000, 0x200);
        let (read, rest) = read_back(headers, &data);
        assert_eq!(read, chunk(false, NBD_REPLY_TYPE_OFFSET_DATA, 0x208));
        assert_eq!(rest, 0x1000_u64.to_be_bytes());
        let hole = to.hole(true, 0x1000, 0x200);
        let (read, rest) = read_back(headers, &hole);
        assert_eq!(read, chunk(true, NBD_REPLY_TYPE_OFFSET_HOLE, 12));
        let hole = Hole::decode(rest.try_into().unwrap());
        assert_eq!((hole.offset, hole.len), (0x1000, 0x200));
        let error = to.error_at(false, NBD_EIO, 0x1000);
        let (read, rest) = read_back(headers, &error);
        assert_eq!(read, chunk(false, NBD_REPLY_TYPE_ERROR_OFFSET, 14));
        let head = ErrorHead::decode(*rest.first_chunk().unwrap()).unwrap();
        assert_eq!((head.error, head.message_len), (NBD_EIO, 0));
        let status = to.block_status(true, 3, 2);
        let (read, rest) = read_back(headers, &status);
        let Reply::Chunk(Chunk { len, .. }) = read else {
            panic!("{read:?}");
        };
        let head = StatusHead::decode(headers, rest, len).unwrap();
        assert_eq!((head.id, head.count), (3, 2));
        let run = Descriptor::decode(headers, &to.descriptor(0x1000, 3)).unwrap();
        assert_eq!((run.len, run.flags), (0x1000, 3));
    }
}

#[test]
fn replies_of_another_form_are_refused() {
    let (simple, structured) = (
        reply(Headers::Simple).simple(None),
        reply(Headers::Structured).none(),
    );
    let extended = reply(Headers::Extended).none();
    for (headers, bytes) in [
        (Headers::Simple, &*structured),
        (Headers::Simple, &*extended),
        (Headers::Structured, &*extended),
        (Headers::Extended, &*simple),
        (Headers::Extended, &*structured),
        (Headers::Structured, &[0; 32][..]),
    ] {
        let decoded = Reply::decode(headers, bytes);
        assert_eq!(decoded, Err(NbdError::BadMagic), "{headers:?}");
    }
}

#[test]
fn payloads_that_do_not_add_up_are_refused() {
    assert_eq!(ErrorHead::decode([0; 6]), Err(NbdError::Malformed));
    let structured = |payload_len| StatusHead::decode(Headers::Structured, &[0; 4], payload_len);
    for payload_len in [0, 4, 11, 13] {
        assert_eq!(structured(payload_len), Err(NbdError::Malformed));
    }
    assert_eq!(structured(4 + 8 * 3).unwrap().count, 3);
    // The count is said twice.
    let head = b"\x00\x00\x00\x01\x00\x00\x00\x02";
    let extended = |payload_len| StatusHead::decode(Headers::Extended, head, payload_len);
    for payload_len in [0, 8, 8 + 16, 8 + 16 * 3, 8 + 16 * 2 - 1] {
        assert_eq!(extended(payload_len), Err(NbdError::Malformed));
    }
    assert_eq!(extended(8 + 16 * 2).unwrap().count, 2);
    for headers in [Headers::Structured, Headers::Extended] {
        let short = StatusHead::decode(headers, &[0; 3], 1 << 20);
        assert_eq!(short, Err(NbdError::Malformed));
        let empty = Descriptor::decode(headers, &[0; 16]);
        assert_eq!(empty, Err(NbdError::Malformed));
        let short = Descriptor::decode(headers, &[1; 7]);
        assert_eq!(short, Err(NbdError::Malformed));
    }
}
