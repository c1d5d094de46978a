//! SPDY: a connection that a client writes anything to.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let io = tokio::io::join(Cursor::new(bytes.to_vec()), tokio::io::sink());
    let (mut connection, work) = streaming::accept(io);
    runtime.block_on(async {
        let streams = async {
            while let Some(mut stream) = connection.next().await {
                let _ = (stream.id(), stream.header("streamtype").map(str::len));
                while stream.reader.read().await.is_some() {}
            }
        };
        let _ = tokio::join!(work, streams);
    });
});
