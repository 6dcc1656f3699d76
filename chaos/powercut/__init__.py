"""The durability proof of the real storage engines: what does a power cut leave behind?

kill -9 cannot tell, because the page cache survives it. So the proof goes the long way round:

    writer (a child) --system calls--> recorder --Recording--> Disk --Image--> verifier (a child)
    engine + workload                  (ptrace)                (model)         engine + workload

1. `recorder` runs a writer under ptrace and notes, in one total order over all threads, every call
   that changes files under a directory, every sync, and every acknowledgement.
2. `disk` plays a recording up to a chosen cut and draws an image: all that was surely durable, plus
   a random and torn part of the rest. Its docstring states the file-system model.
3. `verifier` opens the image with the real engine and compares what it holds with the workload:
   the state after some prefix of the batches, nothing between, and no acknowledged one missing.
4. `campaign` does this for many cuts and seeds, and says which image broke which promise.

`crashloop` is the cheaper test of another promise: kill -9 in a loop shows that batches are atomic
and recovery works. It does not show durability.

Pure: recording, submitted, filestate, namespace, disk, syscalls, workload. Impure: the others.
"""
