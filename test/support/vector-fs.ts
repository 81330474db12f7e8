/** A FileSystem with `writev` over one without: each is one `write` of everything. */
import type { FileSystem } from "../../src/vfs/file-system.ts";
import { ForwardingFileSystem } from "../../src/vfs/forwarding-file-system.ts";

export class VectorFs extends ForwardingFileSystem {
  override readonly writev: NonNullable<FileSystem["writev"]> = (ctx, handle, offsetBytes, buffers, options) =>
    this.inner.write(ctx, handle, offsetBytes, Buffer.concat(buffers), options);
}
