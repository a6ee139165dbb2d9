// Makes a component of a JavaScript file: node componentize.mjs BACKEND SOURCE WIT WORLD OUT
import { readFile, writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";

const [backend, source, wit, world, out] = process.argv.slice(2);

async function component() {
  if (backend === "quickjs") {
    const { componentize } = await import("componentize-qjs");
    const result = await componentize({
      witPath: wit,
      jsSource: await readFile(source, "utf8"),
      jsPath: source,
      moduleRoot: dirname(source),
      world,
      // No WASI and no waiting: a call is cheap, and nothing has to be linked.
      stubWasi: true,
      sync: true,
    });
    return result.component;
  }
  const { componentize } = await import("@bytecodealliance/componentize-js");
  // The engine finds the file, and those it imports, from the folder it is in.
  process.chdir(dirname(source));
  const result = await componentize({ sourcePath: basename(source), witPath: wit, worldName: world });
  return result.component;
}

try {
  await writeFile(out, await component());
} catch (error) {
  console.error(error?.stack ?? String(error));
  process.exit(1);
}
