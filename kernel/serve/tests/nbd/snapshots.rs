//! Snapshots as exports, and the end of what is attached.

use std::time::Duration;

use volume::Settings;
use wire::nbd::*;

use crate::client::{Answer, Client, info_data};
use crate::{Rig, SIZE, attached};

#[test]
fn a_snapshot_is_a_read_only_export() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        let mut writer = attached(&port, Headers::Structured).await;
        writer.write(0, &[1; 8192]).await;
        volumes.create_snapshot("demo", "monday").await.unwrap();
        writer.write(4096, &[2; 4096]).await;

        let mut reader = Client::connect(&port).await;
        reader.structured().await;
        let data = info_data("demo@monday", &[NBD_INFO_NAME, NBD_INFO_DESCRIPTION]);
        let replies = reader.option(NBD_OPT_INFO, &data).await;
        assert_eq!(replies[1], (NBD_REP_INFO, b"\x00\x01demo@monday".to_vec()));
        let description = b"\x00\x02Ferrite snapshot demo@monday".to_vec();
        assert_eq!(replies[2], (NBD_REP_INFO, description));
        let flags = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_READ_ONLY
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_CACHE
            | NBD_FLAG_SEND_DF
            | NBD_FLAG_CAN_MULTI_CONN;
        assert_eq!(reader.go("demo@monday").await, (SIZE, flags));
        assert_eq!(reader.read(0, 8192).await, Answer::Data(vec![1; 8192]));
        let refused = Answer::Error(NBD_EPERM);
        assert_eq!(reader.write(0, &[3; 512]).await, refused);
        for command in [NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES] {
            assert_eq!(reader.command(command, 0, 0, 4096).await, refused);
        }
        assert_eq!(reader.command(NBD_CMD_FLUSH, 0, 0, 0).await, Answer::Done);
        assert_eq!(reader.read(0, 8192).await, Answer::Data(vec![1; 8192]));
        // The size is that of the moment, too.
        volumes.grow("demo", 2 * SIZE).await.unwrap();
        assert_eq!(reader.read(SIZE, 512).await, Answer::Error(NBD_EINVAL));
        reader.bye().await;
        writer.bye().await;
    });
}

#[test]
fn list_names_snapshots_after_volumes_and_not_without_end() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        volumes.create("other", 4096).await.unwrap();
        for name in ["b", "a"] {
            volumes.create_snapshot("demo", name).await.unwrap();
        }
        let names = async |port| {
            let replies = Client::connect(port).await.option(NBD_OPT_LIST, &[]).await;
            let names = replies.iter().filter(|(kind, _)| *kind == NBD_REP_SERVER);
            let names = names.map(|(_, data)| String::from_utf8(data[4..].to_vec()).unwrap());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&port).await, ["demo", "other", "demo@b", "demo@a"]);
        for index in 0..1000 {
            volumes
                .create_snapshot("demo", &format!("s{index}"))
                .await
                .unwrap();
        }
        assert_eq!(names(&port).await.len(), 1000);
        let mut last = Client::connect(&port).await;
        assert_eq!(last.go("demo@s999").await.0, SIZE);
        last.bye().await;
    });
}

#[test]
fn what_is_not_there_is_told() {
    let rig = Rig::new();
    rig.story(async |port| {
        let client = Client::connect(&port).await;
        for (name, about) in [
            ("demo@none", "no such snapshot"),
            ("none@monday", "no such volume"),
            ("@monday", "no such volume"),
            ("demo@", "no such snapshot"),
            ("demo@a@b", "no such snapshot"),
        ] {
            let replies = client.option(NBD_OPT_GO, &info_data(name, &[])).await;
            assert_eq!(replies, [(NBD_REP_ERR_UNKNOWN, about.into())], "{name}");
        }
    });
}

#[test]
fn a_forced_rollback_ends_connections_and_a_new_one_sees_the_old_contents() {
    let rig = Rig::new();
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    rig.story(async move |port| {
        let mut client = attached(&port, Headers::Structured).await;
        let idle = attached(&port, Headers::Simple).await;
        client.write(0, &[1; 4096]).await;
        volumes.create_snapshot("demo", "before").await.unwrap();
        let mut reader = Client::connect(&port).await;
        reader.go("demo@before").await;
        client.write(0, &[2; 4096]).await;
        // Requests that come while it happens are of either side, never of both.
        for index in 0..16 {
            client.send(NBD_CMD_WRITE, 0, index * 4096, 4096).await;
            net::Stream::write_all(&client.stream, &[9; 4096])
                .await
                .unwrap();
        }
        volumes.rollback("demo", "before", true).await.unwrap();
        let mut after = attached(&port, Headers::Structured).await;
        let mut expected = vec![0; 64 << 10];
        expected[..4096].fill(1);
        assert_eq!(
            after.read(0, 64 << 10).await,
            Answer::Data(expected.clone())
        );
        for _ in 0..16 {
            let (_, answer) = client.reply(None).await;
            assert!(
                [Answer::Done, Answer::Error(NBD_ESHUTDOWN)].contains(&answer),
                "{answer:?}"
            );
        }
        let gone = Answer::Error(NBD_ESHUTDOWN);
        assert_eq!(client.write(0, &[3; 512]).await, gone);
        exec.sleep(Duration::from_secs(1)).await;
        assert!(client.is_cut_off().await && idle.is_cut_off().await);
        assert_eq!(after.read(0, 64 << 10).await, Answer::Data(expected));
        // The snapshot is what it was, so its readers go on.
        assert_eq!(reader.read(0, 4096).await, Answer::Data(vec![1; 4096]));
        reader.bye().await;
        after.bye().await;
    });
}

#[test]
fn a_forced_delete_ends_the_connections_of_snapshots_too() {
    let rig = Rig::new();
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    rig.story(async move |port| {
        for name in ["one", "two"] {
            volumes.create_snapshot("demo", name).await.unwrap();
        }
        let mut readers = Vec::new();
        for name in ["demo@one", "demo@two", "demo"] {
            let mut reader = Client::connect(&port).await;
            reader.go(name).await;
            readers.push(reader);
        }
        volumes
            .delete_snapshot("demo", "one", false)
            .await
            .unwrap_err();
        volumes.delete_snapshot("demo", "one", true).await.unwrap();
        exec.sleep(Duration::from_secs(1)).await;
        assert!(readers.remove(0).is_cut_off().await);
        assert_eq!(readers[0].read(0, 512).await, Answer::Data(vec![0; 512]));
        volumes.delete("demo", true).await.unwrap();
        exec.sleep(Duration::from_secs(1)).await;
        for reader in readers {
            assert!(reader.is_cut_off().await);
        }
    });
}

#[test]
fn a_volume_for_others_is_neither_listed_nor_given() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        volumes.create_snapshot("demo", "monday").await.unwrap();
        let settings = Settings {
            allow: vec!["198.51.100.0/24".parse().unwrap()],
            ..Settings::default()
        };
        volumes.set("demo", settings).await.unwrap();
        let client = Client::connect(&port).await;
        let listed = client.option(NBD_OPT_LIST, &[]).await;
        assert_eq!(listed, [(NBD_REP_ACK, vec![])]);
        for name in ["demo", "demo@monday", ""] {
            let replies = client.option(NBD_OPT_GO, &info_data(name, &[])).await;
            assert_eq!(replies[0].0, NBD_REP_ERR_POLICY, "{name}");
            let why = String::from_utf8_lossy(&replies[0].1);
            assert!(why.contains("in none of its networks"), "{why}");
        }
        let settings = Settings {
            read_only: true,
            ..Settings::default()
        };
        volumes.set("demo", settings).await.unwrap();
        let mut client = Client::connect(&port).await;
        assert_ne!(client.go("demo").await.1 & NBD_FLAG_READ_ONLY, 0);
        let refused = client.write(0, &[1; 512]).await;
        assert_eq!(refused, Answer::Error(NBD_EPERM));
        client.bye().await;
    });
}
