-- Makes a queue that others have one to take from. ARGV: prefix, queue.
write_in_any_case()
adopt(ARGV[2])
return 1
