-- Notes of how many workers ($4) of pool $2 of supervisor $1 each of the affinities $3 was the last.
select pushq.note_affinities($1::text, $2::int, $3::text[], $4::int[])
