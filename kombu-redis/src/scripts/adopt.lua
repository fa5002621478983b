-- Makes a queue that others have one to take from. ARGV: prefix, queue.
adopt(ARGV[2])
return 1
