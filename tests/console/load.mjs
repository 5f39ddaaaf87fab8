// A client that writes and reads a volume for a while: just enough NBD for the console's charts to show something.

import { once } from 'node:events';
import { connect } from 'node:net';

const OPTION = 0x49484156454f5054n;
const REQUEST = 0x25609513;
const SIMPLE_REPLY = 0x67446698;
const BYTES = 4096;

/** Bytes of a socket, so many at a time. */
function reader(socket) {
  let held = Buffer.alloc(0);
  return async (count) => {
    while (held.length < count) {
      const chunk = socket.read();
      if (chunk) held = Buffer.concat([held, chunk]);
      else await once(socket, 'readable');
    }
    const taken = held.subarray(0, count);
    held = held.subarray(count);
    return taken;
  };
}

/** Writes and reads one block after the other, by turns, until `signal` is aborted; returns how many were done. */
export async function load({ host, port, volume, signal }) {
  const socket = connect(port, host);
  await once(socket, 'connect');
  const read = reader(socket);
  await read(18);
  const hello = Buffer.alloc(4 + 16 + volume.length);
  hello.writeUInt32BE(3, 0);
  hello.writeBigUInt64BE(OPTION, 4);
  hello.writeUInt32BE(1, 12);
  hello.writeUInt32BE(volume.length, 16);
  hello.write(volume, 20);
  socket.write(hello);
  await read(10);
  let done = 0;
  for (; !signal.aborted; done += 1) {
    const isWrite = done % 2 === 0;
    const request = Buffer.alloc(28 + (isWrite ? BYTES : 0), 1);
    request.writeUInt32BE(REQUEST, 0);
    request.writeUInt16BE(0, 4);
    request.writeUInt16BE(isWrite ? 1 : 0, 6);
    request.writeBigUInt64BE(BigInt(done), 8);
    request.writeBigUInt64BE(BigInt((done % 200) * BYTES), 16);
    request.writeUInt32BE(BYTES, 24);
    socket.write(request);
    const reply = await read(16);
    if (reply.readUInt32BE(0) !== SIMPLE_REPLY || reply.readUInt32BE(4) !== 0) throw new Error('the request failed');
    if (!isWrite) await read(BYTES);
  }
  socket.destroy();
  return done;
}
